"""The local backend with real processes, which stand in for a cluster's."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowgroup.edge.local import Local, _worker, _workers
from flowgroup.edge.processes import Running, end, end_now, is_alive, spawn, strays
from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName, FlowId
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup
from flowgroup.settings import DriverSettings, PrefectSettings
from tests.servers import wait_until

SPEC = ClusterSpec(flow_id=FlowId("f"), flow_name="my flow", isolation="pool")
STAY = [sys.executable, "-c", "import sys, time; print('ready', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Local]:
    made = Local(tmp_path, PrefectSettings(api_url="http://127.0.0.1:1/api"), DriverSettings())
    yield made
    for found in await made.find():
        await made.delete(found.name)


async def test_a_cluster_is_made_once_found_again_and_gone_when_deleted(backend: Local, tmp_path: Path) -> None:
    made = await backend.create(SPEC)
    again = await backend.create(SPEC)
    assert (made.name, made.secret) == (again.name, again.secret)
    another_daemon = Local(tmp_path, PrefectSettings(), DriverSettings())
    assert await another_daemon.find() == [made]
    assert await another_daemon.look(made.name) is None
    await another_daemon.delete(made.name)
    assert await backend.find() == []
    assert "not there" in str(await backend.look(made.name))


async def test_a_dead_driver_is_said_with_its_last_lines_and_the_cluster_is_made_anew(
    backend: Local, tmp_path: Path
) -> None:
    made = await backend.create(SPEC)
    place = tmp_path / "clusters" / made.name
    (place / "driver.log").write_text("the last line\n")
    os.kill(backend._processes(place)["driver"].pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(backend._processes(place)["driver"]), timeout_s=10, what="it is dead")
    reason = await backend.look(made.name)
    assert reason
    assert "driver" in reason
    assert "the last line" in reason
    assert (await backend.create(SPEC)).secret != made.secret


async def test_what_a_daemon_had_only_half_made_is_ended_and_removed(backend: Local, tmp_path: Path) -> None:
    place = tmp_path / "clusters" / "half"
    stray = spawn([*STAY, str(place)], env={}, cwd=place, log=place.parent / "x.log")
    assert await backend.find() == []
    assert not is_alive(stray)
    assert not place.exists()
    (place.parent / "x.log").unlink()


@pytest.mark.parametrize("mute_for", [3, 10**9])
def test_a_stray_that_is_just_becoming_another_program_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mute_for: int
) -> None:
    """For a moment it has no command line; one that never has is nobody of ours, and holds up nothing."""
    stray = spawn([*STAY, str(tmp_path)], env={}, cwd=tmp_path, log=tmp_path / "x.log")
    read, asked = Path.read_bytes, 0

    def as_it_becomes_another(path: Path) -> bytes:
        nonlocal asked
        if str(path) != f"/proc/{stray.pid}/cmdline":
            return read(path)
        asked += 1
        return b"" if asked <= mute_for else read(path)

    try:
        wait_until(lambda: b"ready" in read(tmp_path / "x.log"), timeout_s=20, what="it is there")
        monkeypatch.setattr(Path, "read_bytes", as_it_becomes_another)
        found = strays(str(tmp_path), [])
        monkeypatch.undo()
    finally:
        end_now([stray], grace_s=0)
    assert found == ([stray] if mute_for == 3 else [])


async def test_a_folder_with_nonsense_in_it_is_not_a_cluster(backend: Local, tmp_path: Path) -> None:
    place = tmp_path / "clusters" / "odd"
    place.mkdir()
    (place / "cluster.json").write_text('{"spec": {"flow_id": 3}, "processes": {"driver": {"pid": "x"}}}')
    assert await backend.find() == []


def test_a_process_outlives_and_is_known_by_pid_and_start(tmp_path: Path) -> None:
    process = spawn(STAY, env={}, cwd=tmp_path, log=tmp_path / "log")
    assert is_alive(process)
    assert not is_alive(Running(process.pid, "at another time"))
    assert os.getsid(process.pid) == process.pid
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(process), timeout_s=10, what="it is dead")


async def test_a_process_that_ignores_sigterm_is_killed_with_its_session(tmp_path: Path) -> None:
    process = spawn(STUBBORN, env={}, cwd=tmp_path, log=tmp_path / "log")
    wait_until(lambda: "ready" in (tmp_path / "log").read_text(), timeout_s=10, what="it has begun")
    await end([process], grace_s=0.2)
    wait_until(lambda: not is_alive(process), timeout_s=10, what="it is dead")


def test_standard_input_reaches_the_process_and_nothing_secret_is_on_its_command_line(tmp_path: Path) -> None:
    process = spawn(
        [sys.executable, "-c", "print(input())"], env={}, cwd=tmp_path, log=tmp_path / "log", stdin="a secret\n"
    )
    wait_until(lambda: "a secret" in (tmp_path / "log").read_text(), timeout_s=10, what="it has read")
    wait_until(lambda: not is_alive(process), timeout_s=10, what="it has ended")


def test_each_group_of_workers_has_its_own_with_its_resources(tmp_path: Path) -> None:
    gpu = WorkerGroup(name="gpu", count=2, dask_resources={"GPU": 1, "mem": 2.5})
    spec = SPEC.model_copy(update={"workers": 1, "worker_groups": (gpu,)})
    assert _workers(spec) == ["worker-0", "worker-gpu-0", "worker-gpu-1"]
    assert "--resources" not in _worker(tmp_path, spec, "worker-0")
    command = _worker(tmp_path, spec, "worker-gpu-1")
    assert command[command.index("--resources") + 1] == "GPU=1 mem=2.5"


async def test_workers_of_a_group_come_and_go_by_name_and_what_has_gone_is_not_started_again(
    backend: Local, tmp_path: Path
) -> None:
    gpu = WorkerGroup(name="gpu", count=1, max=4)
    made = await backend.create(SPEC.model_copy(update={"workers": 1, "workers_max": 3, "worker_groups": (gpu,)}))
    place = tmp_path / "clusters" / made.name

    def workers() -> list[str]:
        return sorted(role for role in backend._processes(place) if role.startswith("worker"))

    assert workers() == ["worker-0", "worker-gpu-0"]
    assert await backend.scale(made.name, "default", 3, ())
    assert await backend.scale(made.name, "gpu", 2, ())
    assert workers() == ["worker-0", "worker-1", "worker-2", "worker-gpu-0", "worker-gpu-1"]
    before = backend._processes(place)
    assert await backend.scale(made.name, "default", 2, ("worker-0", "worker-gpu-0"))
    assert workers() == ["worker-1", "worker-2", "worker-gpu-0", "worker-gpu-1"]
    assert not is_alive(before["worker-0"])
    assert is_alive(before["worker-gpu-0"])
    assert await backend.scale(made.name, "default", 0, ())
    assert await backend.look(made.name) is None
    assert "worker-2" in workers()
    assert await backend.scale(made.name, "default", 3, ("worker-2",))
    assert workers()[:3] == [
        "worker-1",
        "worker-3",
        "worker-4",
    ]  # a name is not used twice: the old one may be known yet
    assert await backend.scale(ClusterName("gone"), "default", 3, ())


def test_where_the_number_changes_each_process_comes_and_goes_by_itself(tmp_path: Path) -> None:
    fixed = SPEC.model_copy(update={"workers": 2, "worker_processes": 3})
    assert _workers(fixed) == ["worker-0", "worker-1"]
    command = _worker(tmp_path, fixed, "worker-0")
    assert command[command.index("--nworkers") + 1] == "3"
    adaptive = fixed.model_copy(update={"workers_max": 4})
    assert len(_workers(adaptive)) == 6
    command = _worker(tmp_path, adaptive, "worker-0")
    assert command[command.index("--nworkers") + 1] == "1"


async def test_a_relay_that_does_not_come_up_is_tried_again_and_says_why(tmp_path: Path) -> None:
    backend = Local(tmp_path, PrefectSettings(api_url=None), DriverSettings())
    for _ in range(2):
        with pytest.raises(Transient, match=r"(?s)the relay does not start.*standard input is wrong in: api_url"):
            await backend.relay()
