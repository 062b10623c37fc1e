"""The command line itself: what it costs to ask for help, its reference, its exit statuses."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowgroup import cli
from flowgroup.operate.reference import page

_HELP = """
import contextlib, io, json, sys
from flowgroup import cli
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
    cli.main(sys.argv[1:])
print(json.dumps([said.getvalue(), sorted(sys.modules)]))
"""
COMMANDS = [[], ["status"], ["logs"], ["plan"], ["render"], ["doctor"], ["deploy"], ["start"], ["cluster"]]
COMMANDS += [["cluster", one] for one in ("list", "show", "reset", "scale")]


def test_the_reference_is_what_the_parsers_say() -> None:
    written = Path(__file__).parents[2] / "docs" / "cli.md"
    assert written.read_text() == page(cli.parser()), "run `make cli`"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_of_prefect_or_dask(command: list[str]) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", _HELP, *command, "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    said, modules = json.loads(asked.stdout)
    assert said.startswith(f"usage: flowgroup{''.join(f' {word}' for word in command)}")
    assert not {"prefect", "distributed", "dask", "obstore", "uvicorn"} & set(modules)


@pytest.mark.parametrize(
    "command",
    [
        ["cluster", "scale", "x"],
        ["cluster", "scale", "x", "--workers", "-1"],
        ["logs", "x", "--lines", "0"],
        ["doctor", "--pool", "p", "--only", "no-such-check"],
        ["status"],
        ["render", "--set", "workers"],
        ["render", "--set", "wrokers=1"],
        ["render", "--set", "workers=1"],
    ],
    ids=" ".join,
)
def test_wrong_input_is_status_2_and_says_why(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWGROUP_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_without_a_daemon_status_fails_with_the_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--pool", "p", "--home", str(tmp_path)])
    assert ended.value.code == 1
    assert "flowgroup start" in capsys.readouterr().err


def test_render_prints_a_cluster_without_any_access_and_without_a_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLOWGROUP_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWGROUP_KUBERNETES_NAMESPACE", "jobs")
    monkeypatch.setenv("FLOWGROUP_KUBERNETES_IMAGE", "registry.example/flows:1")
    with pytest.raises(SystemExit) as ended:
        cli.main(["render", "--set", "workers=2", "--set", 'worker_groups=[{"name":"big","count":3}]'])
    assert ended.value.code == 0
    items = json.loads(capsys.readouterr().out)["items"]
    kinds = [item["kind"] for item in items]
    assert kinds[0] == "DaskCluster"
    assert kinds[-1] == "Pod"
    assert {"Secret", "NetworkPolicy", "ConfigMap", "DaskWorkerGroup"} < set(kinds)
    assert {item["metadata"]["namespace"] for item in items} == {"jobs"}
    assert items[0]["spec"]["worker"]["replicas"] == 2
    secret = next(item for item in items if item["kind"] == "Secret")
    assert {base64.b64decode(value) for value in secret["data"].values()} == {b"(not shown)"}
