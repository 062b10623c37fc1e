"""
The daemon on Kubernetes is killed with -9 while runs arrive, and its pod replaced. Judged by what the runs themselves have
said. `FLOWGROUP_TEST_KILLS=30 FLOWGROUP_TEST_RUNS=300` is the long one.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Installed
from tests.e2e.test_replaced import _deployed, _said, stack, store  # noqa: F401 (fixtures)
from tests.real.stack import FINAL, Stack, wait_for

pytestmark = pytest.mark.e2e
_FLOW = Path(__file__).parent / "flows" / "ledger.py"
_KILLS = int(os.environ.get("FLOWGROUP_TEST_KILLS", "3"))
_RUNS = int(os.environ.get("FLOWGROUP_TEST_RUNS", "20"))
_BACK_S = 30.0


@pytest.mark.timeout(900 + 60 * _KILLS + 10 * _RUNS)
def test_no_run_is_lost_and_none_runs_twice_though_the_daemon_is_killed_again_and_again(
    installed: Installed,
    stack: Stack,  # noqa: F811
    store: dict[str, str],  # noqa: F811
) -> None:
    deployment = _deployed(stack, store, _FLOW, "kills")
    runs: dict[str, int] = {}
    chance = random.Random()
    for kill in range(_KILLS):
        while len(runs) < _RUNS * (kill + 1) // _KILLS:
            beats = chance.choice([1, 1, 5])
            runs[stack.start(deployment, beats=beats, every_s=1.0)] = beats
        time.sleep(chance.uniform(0.0, 4.0))
        _killed(installed)
    began_s = time.monotonic()
    wait_for(lambda: not _waiting(stack, runs), "every run is on its way", _BACK_S + 2 * _RUNS)
    back_s = time.monotonic() - began_s
    ends = {run: stack.wait(run, *FINAL, timeout_s=_BACK_S + 5 * _RUNS)["state_name"] for run in runs}
    wanted = {run: _lines(beats) for run, beats in runs.items()}
    wait_for(lambda: all(len(_said(stack, run)) >= len(wanted[run]) for run in runs), "their logs are whole", 100)
    odd = {run: _said(stack, run) for run in runs if _said(stack, run) != wanted[run]}
    twice = [run for run in runs if stack.states(run).count("Running") != 1]
    print(f"figure: {_KILLS} kills, {_RUNS} runs: odd {len(odd)}, twice {len(twice)}; all begun after {back_s:.1f} s")
    assert not odd
    assert not twice
    assert set(ends.values()) == {"Completed"}, ends


def _lines(beats: int) -> list[str]:
    return sorted(f"{what} {number} of the ledger" for number in range(beats) for what in ("step", "task"))


def _waiting(stack: Stack, runs: dict[str, int]) -> list[dict[str, Any]]:  # noqa: F811
    asked = {"flow_runs": {"id": {"any_": list(runs)}, "state": {"name": {"any_": ["Scheduled", "Late", "Pending"]}}}}
    found: list[dict[str, Any]] = stack.api.post("/flow_runs/filter", json=asked).json()
    return found


def _killed(installed: Installed) -> None:
    """By SIGKILL from outside; its pod goes as well, for Kubernetes would let a container that dies often wait for minutes."""
    before = _ready(installed)
    [pod] = before
    os.kill(_pid(pod), signal.SIGKILL)
    installed.main("delete", "pod", pod, "--grace-period=0", "--force")
    wait_for(lambda: _ready(installed) - before, "another daemon serves", 90)


def _ready(installed: Installed) -> set[str]:
    pods = installed.main.json("get", "pods", "-l", "app.kubernetes.io/component=daemon")["items"]
    return {
        pod["metadata"]["name"]
        for pod in pods
        if {"type": "Ready", "status": "True"}.items()
        <= next((one for one in pod["status"].get("conditions", []) if one["type"] == "Ready"), {}).items()
    }


def _pid(pod: str) -> int:
    """Of the pod's daemon, as this machine has it: its only node."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        command = (folder / "cmdline").read_bytes().split(b"\0")
        if f"HOSTNAME={pod}".encode() in environment and b"start" in command:
            return int(folder.name)
    raise AssertionError(f"no process of pod {pod} is on this machine")
