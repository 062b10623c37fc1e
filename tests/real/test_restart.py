"""Processes that die: the daemon, the relay, a driver, a scheduler. What the others do then."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def own(prefect_api: str) -> Iterator[Stack]:
    """A stack whose processes may be killed."""
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "again") as made,
    ):
        yield made
        made.daemon.terminate()
        made.daemon.wait(30)


@pytest.fixture(scope="module")
def plain(own: Stack) -> str:
    return own.deploy("lab.py:lab", "again")


def kill_daemon(own: Stack) -> None:
    own.daemon.send_signal(signal.SIGKILL)
    own.daemon.wait()
    (own.home / own.pool / "daemon.json").unlink()


def start_daemon(own: Stack) -> None:
    """Another daemon in the place of the one that was killed."""
    own.daemon = own.another_daemon()
    wait_for((own.home / own.pool / "daemon.json").exists, "the daemon is up", 60)


def test_a_killed_daemon_finds_its_clusters_and_runs_again(own: Stack, plain: str) -> None:
    first = own.start(plain, what="sleeps", with_={"seconds": 1})
    own.wait(first)
    before = own.processes(own.cluster_of(first))
    long, dying = (
        own.start(plain, what="sleeps", with_={"seconds": 12}),
        own.start(plain, what="sleeps", with_={"seconds": 3}),
    )
    crashing = own.start(plain, what="sleeps_then_dies", with_={"seconds": 3})
    for run in (long, dying, crashing):
        own.wait(run, "Running")
    kill_daemon(own)
    assert own.wait(dying)["state_name"] == "Completed"  # nobody is there to watch, and it completes all the same
    waiting = own.start(plain, what="sleeps", with_={"seconds": 0})
    start_daemon(own)
    assert own.wait(crashing)["state_name"] == "Crashed"
    assert "exit code 9" in own.message(crashing)
    assert own.wait(waiting)["state_name"] == "Completed"
    assert own.wait(long)["state_name"] == "Completed"
    assert own.processes(own.cluster_of(first)) == before
    assert own.states(long).count("Running") == 1


def test_a_restart_with_fifty_runs_under_way_changes_no_state_and_touches_nothing(own: Stack, plain: str) -> None:
    gate = own.home / "fifty"
    runs = [own.start(plain, what="waits_for", with_={"file": str(gate)}) for _ in range(50)]
    for run in runs:
        own.wait(run, "Running", timeout_s=150)
    wait_for(lambda: _running(own) >= set(runs), "the daemon has heard of all of them", 30)
    before = [own.history(run) for run in runs], _left_on_disk(own), own.processes(own.cluster_of(runs[0]))
    own.daemon.terminate()
    assert own.daemon.wait(30) == 0
    start_daemon(own)
    wait_for(lambda: _running(own) >= set(runs), "the new daemon has all of them", 30)
    wait_for(lambda: _told(own)["last_poll_at"], "it has looked for runs too", 30)
    assert ([own.history(run) for run in runs], _left_on_disk(own), own.processes(own.cluster_of(runs[0]))) == before
    gate.touch()
    for run in runs:
        assert own.wait(run, timeout_s=150)["state_name"] == "Completed", own.message(run)
        assert own.states(run).count("Running") == 1


def _running(own: Stack) -> set[str]:
    return {run["id"] for run in _told(own)["runs"] if run["phase"] == "running"}


def _told(own: Stack) -> Any:
    done = own.shell("status", "--json", env={"FLOWGROUP_HOME": str(own.home), "FLOWGROUP_POOL": own.pool})
    return json.loads(done.stdout) if done.returncode == 0 else {"runs": [], "last_poll_at": None}


def _left_on_disk(own: Stack) -> dict[str, tuple[int, int]]:
    """What the daemon writes of its clusters: each file with its inode and the moment of its last change."""
    found = sorted((own.home / own.pool / "clusters").glob("*/*.json")) + sorted((own.home / own.pool).glob("*.key"))
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


def test_a_run_goes_on_while_the_relay_is_killed_again_and_again_and_no_line_is_lost_or_doubled(
    own: Stack, plain: str
) -> None:
    lines, kills = 200, 6
    run = own.start(plain, what="prints_slowly", with_={"lines": lines, "pause_s": 0.15})
    own.wait(run, "Running")
    killed: set[int] = set()
    for _ in range(kills):
        time.sleep(random.uniform(0.2, 2.5))
        killed.add(_kill_relay(own, but_not=killed))
    assert own.wait(run, timeout_s=150)["state_name"] == "Completed"
    assert len(killed) == kills
    # Lines of a call that was under way when the relay was killed are looked for a minute, and only then sent again.
    wait_for(lambda: "line 199" in _messages(own, run), "its last line", 100)
    numbers = [int(message.split()[1]) for message in _messages(own, run) if message.startswith("line ")]
    assert numbers == list(range(lines)), f"killed: {killed}"
    assert [name for name in own.states(run) if name in ("Running", "Completed")] == ["Running", "Completed"]


def _kill_relay(own: Stack, but_not: set[int]) -> int:
    """Kill the relay that serves now, as soon as there is one that was not killed before; its pid."""
    state = own.home / own.pool / "relay.json"
    wait_for(lambda: _pid_in(state) not in but_not, "another relay", 60)
    pid = _pid_in(state)
    os.kill(pid, signal.SIGKILL)
    return pid


def _messages(own: Stack, run: str) -> list[str]:
    return [str(entry["message"]) for entry in own.logs(run)]


def test_a_killed_driver_ends_its_runs_with_the_reason_and_the_next_run_gets_a_cluster(own: Stack, plain: str) -> None:
    run = own.start(plain, what="sleeps", with_={"seconds": 60})
    own.wait(run, "Running")
    cluster = own.cluster_of(run)
    os.kill(own.processes(cluster)["driver"], signal.SIGKILL)
    assert own.wait(run, timeout_s=15)["state_name"] == "Crashed"
    assert "driver" in own.message(run)
    after = own.start(plain, what="sleeps", with_={"seconds": 0})
    assert own.wait(after)["state_name"] == "Completed"


def test_a_killed_scheduler_ends_the_runs_that_use_it_with_the_reason(own: Stack) -> None:
    dask = own.deploy("lab.py:lab", "sched", "--workers", "1")
    run = own.start(dask, what="sleeps_on_dask", with_={"seconds": 60})
    own.wait(run, "Running")
    wait_for(lambda: own.tasks(run), "its task runs")
    os.kill(own.processes(own.cluster_of(run))["scheduler"], signal.SIGKILL)
    # The flow's own code may see the loss first, and fails with Dask's word for it; else the driver ends the run.
    assert own.wait(run, timeout_s=30)["state_name"] in {"Failed", "Crashed"}
    assert "scheduler" in own.message(run), own.message(run)
    driver_log = own.home / own.pool / "clusters" / own.cluster_of(run) / "driver.log"
    wait_for(lambda: "driver_not_usable" in driver_log.read_text(), "the driver has noticed")
    after = own.start(dask, what="sleeps_on_dask", with_={"seconds": 0})
    assert own.wait(after)["state_name"] == "Completed"


def test_a_dead_worker_is_started_again(own: Stack) -> None:
    dask = own.deploy("lab.py:lab", "sched", "--workers", "1")
    first = own.start(dask, what="sleeps_on_dask", with_={"seconds": 0})
    assert own.wait(first)["state_name"] == "Completed"
    cluster = own.cluster_of(first)
    worker = own.processes(cluster)["worker-0"]
    os.killpg(worker, signal.SIGKILL)
    wait_for(lambda: own.processes(cluster)["worker-0"] != worker, "another worker in its place")
    second = own.start(dask, what="sleeps_on_dask", with_={"seconds": 0})
    assert own.wait(second)["state_name"] == "Completed"
    assert own.cluster_of(second) == cluster


def test_two_specs_of_one_flow_make_two_clusters_for_twenty_alternating_runs(own: Stack) -> None:
    sides = [own.deploy("lab.py:lab", f"side-{side}", "--env", f"PYTHONHASHSEED={side}") for side in (1, 2)]
    before = len(own.events("cluster_make"))
    runs = [own.start(sides[number % 2], what="sleeps", with_={"seconds": 0}) for number in range(20)]
    assert {own.wait(run, timeout_s=180)["state_name"] for run in runs} == {"Completed"}
    assert len(own.events("cluster_make")) - before == 2
    assert len({own.cluster_of(run) for run in runs}) == 2


def test_two_flows_never_share_a_cluster_and_an_idle_one_goes(own: Stack, plain: str) -> None:
    other = own.deploy("lab.py:twice", "again", "--idle-timeout-s", "1")
    one, two = own.start(plain, what="sleeps", with_={"seconds": 0}), own.start(other)
    own.wait(one)
    own.wait(two)
    assert own.cluster_of(one) != own.cluster_of(two)
    wait_for(lambda: own.cluster_of(two) not in own.clusters(), "the idle cluster goes", 20)
    assert own.cluster_of(one) in own.clusters()


def _pid_in(path: Path) -> int:
    return int(json.loads(path.read_text())["pid"])
