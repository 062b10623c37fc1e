"""The benchmark, as small as can be: that it measures, judges, writes and cleans up."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(200)]


def test_a_few_runs_are_measured_judged_and_written_and_nothing_is_left(tmp_path: Path) -> None:
    # Not below pytest's own folder: a Unix socket's path has about 100 characters at most.
    with tempfile.TemporaryDirectory(prefix="fgb-") as temporary:
        done = subprocess.run(
            [sys.executable, "-m", "flowgroup.dev.bench", "ad_hoc", "--sides", "flowgroup", "--few"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "TMPDIR": temporary},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list(Path(temporary).iterdir())
    rows = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows] == ["ad-hoc: created → Running", "ad-hoc: created → Completed"]
    for row in rows:
        assert (row["side"], row["n"], row["trouble"]) == ("flowgroup", 2, None)
        assert 0 < row["median"] <= row["max"] < 60
        assert row["target"].startswith("median ≤ ")
        assert row["met"] in (True, False, None)
        assert row["what"] in done.stdout
    assert rows[0]["median"] <= rows[1]["median"]


def test_a_case_that_there_is_not_is_said_at_once() -> None:
    command = [sys.executable, "-m", "flowgroup.dev.bench", "ad_hok"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "there is no case 'ad_hok'" in done.stderr
