"""A driver's process that cannot begin says why, in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec

SPEC = ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--daemon": "tls://daemon"}, "is no address"),
        ({"--relay": "http://relay:4280"}, "is no address"),
        ({"--spec": "/nowhere/spec.json"}, "/nowhere/spec.json (--spec) is not there"),
        ({"--secret": "/nowhere/secret"}, "/nowhere/secret (--secret) is not there"),
        ({"--ca": "/nowhere/ca.crt"}, "/nowhere/ca.crt (--ca)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    (tmp_path / "secret").write_text("s")
    told = {
        "--cluster": SPEC.name,
        "--folder": str(tmp_path),
        "--storage": str(tmp_path),
        "--daemon": "tls://127.0.0.1:1",
        "--relay": "https://127.0.0.1:1",
        **changed,
    }
    done = subprocess.run(
        [sys.executable, "-m", "flowgroup.rooms", "driver", *(part for pair in told.items() for part in pair)],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": str(Path(__file__).parents[2] / "agent")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("flowgroup: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
