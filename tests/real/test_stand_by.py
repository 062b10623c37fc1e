"""Two daemons of one machine with one home: the one that leads is killed, stopped or ended while runs are under way."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.real.stack import Stack, stack, wait_for

pytestmark = [pytest.mark.real, pytest.mark.timed]


@pytest.fixture(scope="module")
def own(prefect_api: str) -> Iterator[Stack]:
    """A stack whose daemon may be killed; it was started without another one in mind."""
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "turns") as made,
    ):
        yield made


@pytest.fixture(scope="module")
def plain(own: Stack) -> str:
    return own.deploy("lab.py:lab", "turns")


@contextmanager
def standing_by(own: Stack) -> "Iterator[subprocess.Popen[bytes]]":
    """Another daemon with the same home, which waits. It is ended at the end, whether it leads by then or not."""
    before = len(own.events("standing_by"))
    process = own.another_daemon("--stand-by", apart=True)
    try:
        wait_for(lambda: len(own.events("standing_by")) > before, "it stands by", 60)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(30)


def leader(own: Stack) -> int | None:
    """The pid of the daemon that has announced itself last."""
    try:
        return int(json.loads((own.home / own.pool / "daemon.json").read_text())["pid"])
    except (OSError, ValueError):
        return None


def _ran_once(own: Stack, run: str) -> None:
    assert own.wait(run)["state_name"] == "Completed", own.message(run)
    assert own.states(run).count("Running") == 1
    assert own.run(run)["run_count"] == 1


def test_the_leader_is_stopped_then_killed_and_runs_under_way_go_on(own: Stack, plain: str) -> None:
    warm = own.start(plain, what="sleeps", with_={"seconds": 0})
    own.wait(warm)
    first = own.daemon
    with standing_by(own) as second:
        runs = [own.start(plain, what="sleeps", with_={"seconds": seconds}) for seconds in (3, 40)]
        for run in runs:
            own.wait(run, "Running")
        before = own.processes(own.cluster_of(warm))

        first.send_signal(signal.SIGSTOP)
        runs.append(own.start(plain, what="sleeps", with_={"seconds": 0}))
        time.sleep(15)  # for as long as a Lease would have been good: the lock stays where it is
        assert leader(own) == first.pid
        assert second.poll() is None
        first.send_signal(signal.SIGCONT)
        _ran_once(own, runs[-1])

        first.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        first.wait()
        runs.append(own.start(plain, what="sleeps", with_={"seconds": 0}))
        wait_for(lambda: leader(own) == second.pid, "the other one leads", 15)
        took_s = time.monotonic() - killed_at
        print(f"figure: taken over after {took_s:.1f} s")
        for run in runs:
            _ran_once(own, run)
        assert own.processes(own.cluster_of(warm)) == before

        with standing_by(own) as third:
            long = own.start(plain, what="sleeps", with_={"seconds": 15})
            own.wait(long, "Running")
            second.terminate()
            second.wait(30)
            ended_at = time.monotonic()
            wait_for(lambda: leader(own) == third.pid, "the third one leads", 5)
            print(f"figure: taken over {time.monotonic() - ended_at:.1f} s after the other one's end")
            _ran_once(own, long)
