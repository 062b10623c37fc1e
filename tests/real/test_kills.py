"""
The daemon is killed with -9 while runs arrive: at random moments, and at the points of its line. Judged by the ledger that
the flow writes, and by the API. `FLOWGROUP_TEST_KILLS=30 FLOWGROUP_TEST_RUNS=300` is the long one.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from flowgroup.daemon.points import POINTS
from tests.real.stack import FINAL, Stack, stack, wait_for

pytestmark = [pytest.mark.real, pytest.mark.timed]
_KILLS = int(os.environ.get("FLOWGROUP_TEST_KILLS", "6"))
_RUNS = int(os.environ.get("FLOWGROUP_TEST_RUNS", "40"))
_BACK_S = 30.0


def start_another(own: Stack, point: str | None) -> None:
    """A daemon in the place of the one that was killed; with a point it dies by itself when it comes there."""
    own.daemon = own.another_daemon(module=["tests.real.dying", point] if point else ["flowgroup"])
    wait_for(lambda: _serves(own) or own.daemon.poll() is not None, "the daemon serves", 120)


def _serves(own: Stack) -> bool:
    try:
        return bool(json.loads((own.home / own.pool / "daemon.json").read_text())["pid"] == own.daemon.pid)
    except (OSError, ValueError):
        return False


def _ledger(file: Path, what: str) -> Counter[str]:
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return Counter(run for said, run, *_ in lines if said == what)


@pytest.mark.timeout(300 + 60 * _KILLS + 10 * _RUNS)
def test_no_run_is_lost_and_none_runs_twice_though_the_daemon_is_killed_again_and_again(prefect_api: str) -> None:
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "kills") as own,
    ):
        try:
            _judge(own, Path(folder) / "ledger")
        finally:
            own.daemon.terminate()
            own.daemon.wait(30)


def _judge(own: Stack, ledger: Path) -> None:
    deployment = own.deploy("ledger.py:ledger", "kills")
    runs: list[str] = []
    at_points, chance = 0, random.Random()
    for kill in range(_KILLS):
        while len(runs) < _RUNS * (kill + 1) // _KILLS:
            runs.append(own.start(deployment, file=str(ledger), seconds=chance.choice([0.0, 0.5, 5.0])))
        died_by_itself = _dies(own, chance)
        at_points += died_by_itself
        last = kill == _KILLS - 1
        start_another(own, None if last or kill % 2 else f"{chance.choice(POINTS)}:{chance.randint(1, 3)}")
    assert own.daemon.poll() is None, own.trouble()
    began_s = time.monotonic()
    wait_for(lambda: _ledger(ledger, "began").keys() >= set(runs), "every run is on its way", _BACK_S + 2 * _RUNS)
    back_s = time.monotonic() - began_s
    ends = Counter(own.wait(run, *FINAL, timeout_s=_BACK_S + 5 * _RUNS)["state_name"] for run in runs)
    began = _ledger(ledger, "began")
    lost, twice = set(runs) - _ledger(ledger, "ended").keys(), {run for run in runs if began[run] > 1}
    print(
        f"figure: {_KILLS} kills ({at_points} at a point), {_RUNS} runs: lost {len(lost)}, twice {len(twice)}; "
        f"all on their way {back_s:.1f} s after the last start; {dict(ends)}"
    )
    assert not lost, own.trouble()
    assert not twice, own.trouble()
    assert ends == {"Completed": _RUNS}, own.trouble()


def _dies(own: Stack, chance: random.Random) -> bool:
    """Wait a moment, then kill the daemon. Whether it had died at its point before."""
    try:
        own.daemon.wait(chance.uniform(0.0, 4.0))
    except subprocess.TimeoutExpired:
        own.daemon.send_signal(signal.SIGKILL)
        own.daemon.wait()
        return False
    return True
