"""What `make audit` makes of pip-audit's answers. The fake writes and ends as pip-audit 2 does."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowgroup.dev import audit
from tests.chart.conftest import ROOT

_FINE = {"name": "httpx", "version": "0.28.1", "vulns": []}
_BAD = {
    "name": "h11",
    "version": "0.14.0",
    "vulns": [
        {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["0.16.0"], "description": "…"},
        {"id": "PYSEC-2", "aliases": [], "fix_versions": [], "description": "…"},
    ],
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def pip_audit(folder: Path, status: int, said: str = "", *packages: dict[str, Any]) -> Path:
    """Keeps its arguments in a file beside it."""
    tool = folder / "pip-audit"
    answer = f"printf %s '{json.dumps({'dependencies': packages, 'fixes': []})}' >\"${{one#*=}}\""
    tool.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{folder}/arguments\n"
        f"for one; do case $one in --output=*) {answer if packages else ':'};; esac; done\n"
        f"printf '%s\\n' '{said}' >&2\nexit {status}\n"
    )
    tool.chmod(0o755)
    return tool


def test_no_advisory_is_said_and_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(pip_audit(tmp_path, 0, "No known vulnerabilities found", _FINE)) == 0
    assert capsys.readouterr().out == "audit: no known advisory about 1 packages\n"


def test_each_advisory_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(pip_audit(tmp_path, 1, "Found 2 known vulnerabilities", _FINE, _BAD)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "h11 0.14.0: PYSEC-1, CVE-1; mended in 0.16.0",
        "h11 0.14.0: PYSEC-2; mended in no version yet",
    ]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Traceback…\n  raise\nrequests.exceptions.ConnectionError: no name",
            "requests.exceptions.ConnectionError: no name",
        ),
        ("ERROR:Could not connect\nERROR:Tip: your network may be blocking this service", "ERROR:Could not connect"),
        ("ERROR:h11: Dependency not found on PyPI", "ERROR:h11: Dependency not found on PyPI"),
        ("", "pip-audit said nothing"),
    ],
)
def test_no_answer_is_one_line_and_no_good_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, reason: str
) -> None:
    assert audit.main(pip_audit(tmp_path, 1, said)) == 2
    assert capsys.readouterr().err == f"audit: nothing was audited: {reason}\n"


def test_every_lock_is_asked_about_and_nothing_is_skipped(tmp_path: Path) -> None:
    audit.main(pip_audit(tmp_path, 0, "", _FINE))
    arguments = (tmp_path / "arguments").read_text().splitlines()
    asked = {one.partition("=")[2] for one in arguments if one.startswith("--requirement=")}
    assert asked == {str(one.relative_to(ROOT)) for one in [*ROOT.glob("*.lock"), *ROOT.glob("requirements/*.lock")]}
    assert "--strict" in arguments
