"""Why a worker ended, asked by a run's child through its desk, and said in the state that the engine makes."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker
from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine

from flowgroup.driver import engine
from flowgroup.driver.desk import Desk
from flowgroup.driver.losses import Asking
from flowgroup.driver.lost import Lost
from flowgroup.edge.oom import Cgroup, Kills
from flowgroup.model.orders import Losses
from tests.driver.test_desk import FakeForks, desk, started, until
from tests.edge.test_oom import Kernel

__all__ = ["desk"]
WHY = "the worker (pod p) ended: OOMKilled [oom-container]"


def killed(name: str = "w-1") -> KilledWorker:
    worker: Any = SimpleNamespace(name=name, memory_limit=2 << 30, address="tcp://10.0.0.1:1")
    return KilledWorker("work-3f", worker, 3)


class Daemon:
    """Answers each question at once, with what it knows by then: nothing the first `late` times."""

    def __init__(self, file: Path, late: int = 0) -> None:
        self.lost = Lost(self._answer, file, patience_s=3.0)
        self._file, self._late, self.asked = file, late, 0

    def _answer(self) -> None:
        self.asked += 1
        self._file.write_text(json.dumps({"w-1": WHY} if self.asked > self._late else {}))


def test_the_worker_and_its_end_are_named(tmp_path: Path) -> None:
    said = str(Daemon(tmp_path / "losses.json").lost.explained(killed()))
    assert "the task work-3f ended (4 in a row), the last of them w-1 (memory limit 2.00 GiB): " + WHY in said
    assert "[killed-worker]" in said


def test_it_is_asked_again_while_kubelet_has_not_said_yet(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "losses.json", late=2)
    assert WHY in str(daemon.lost.explained(killed()))
    assert daemon.asked == 3


@pytest.mark.timed
def test_a_daemon_that_says_nothing_is_not_waited_for_twice(tmp_path: Path) -> None:
    lost = Lost(lambda: None, tmp_path / "losses.json", patience_s=0.3)
    assert "[killed-worker]" in str(lost.explained(killed()))
    began = time.monotonic()
    for _ in range(20):
        assert "[killed-worker]" in str(lost.explained(killed("w-2")))
    assert time.monotonic() - began < 0.3


def test_only_lost_workers_are_explained_also_where_they_are_the_cause_of_something_else(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "losses.json")
    assert daemon.lost.explained(ValueError("the flow's own")) is None
    assert daemon.lost.explained(FutureCancelledError("work-3f", "user asked")) is None
    assert daemon.asked == 0
    wrapped = RuntimeError("no report")
    wrapped.__cause__ = killed()
    assert "[killed-worker]" in str(daemon.lost.explained(wrapped))
    gone = FutureCancelledError("work-3f", "scheduler-connection-lost")
    lost = Lost(lambda: None, tmp_path / "none.json", patience_s=0.1)
    assert "work-3f cancelled for reason: scheduler-connection-lost)" in str(lost.explained(gone))


async def test_a_child_asks_through_its_desk_and_reads_the_answer_in_a_file(
    desk: tuple[Desk, FakeForks], tmp_path: Path
) -> None:
    await started(desk)
    assert desk[0].status().asks == 0
    desk[1].say("a", b'{"asks": true}\n')
    async with asyncio.timeout(10):
        while desk[0].status().asks == 0:
            await asyncio.sleep(0.01)
    desk[0].losses.hear(Losses(why={"w-1": WHY}, asks=1))
    assert json.loads((tmp_path / "losses.json").read_text()) == {"w-1": WHY}
    desk[1].end("a", 0)
    await until(desk[0], "a", "ended")


async def test_the_desk_itself_asks_and_waits_only_so_long(tmp_path: Path) -> None:
    asking = Asking(tmp_path / "losses.json", asyncio.Event())
    assert await asking.why("scheduler", 0.05) == ""
    waiting = asyncio.create_task(asking.why("scheduler", 10))
    async with asyncio.timeout(10):
        while asking.asks < 2:
            await asyncio.sleep(0.01)
    asking.hear(Losses(why={"scheduler": "old"}, asks=1))  # to the question before
    await asyncio.sleep(0.05)
    assert not waiting.done()
    asking.hear(Losses(why={"scheduler": "OOMKilled"}, asks=2))
    assert await waiting == "OOMKilled"


async def test_a_child_that_the_kernel_ended_for_its_memory_says_so_and_one_that_somebody_killed_does_not(
    desk: tuple[Desk, FakeForks], tmp_path: Path
) -> None:
    kernel = Kernel(tmp_path / "kernel")
    (kernel.unit / "memory.max").write_text(f"{2 << 30}\n")
    desk[0].kills = Kills(kernel.cgroup)
    await started(desk)
    await started(desk, "b")
    kernel.say(own=1, kill=1)
    desk[1].end("a", signal.SIGKILL)
    ended = (await until(desk[0], "a", "ended")).exit
    assert ended
    assert "(limit 2.00 GiB) was used up" in str(ended.cause)
    assert "[oom-child]" in str(ended.cause)
    desk[1].end("b", signal.SIGKILL)
    killed_by_hand = (await until(desk[0], "b", "ended")).exit
    assert killed_by_hand
    assert killed_by_hand.cause is None


def test_a_desk_reads_the_counters_of_its_own_cgroup() -> None:
    assert Cgroup.of().code_since(Cgroup.of().counters()) is None


async def test_the_engines_message_begins_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None]] = []

    def stock(_: Any, exc: Exception, msg: str | None = None, result_store: Any = None) -> None:
        seen.append((str(exc), msg))

    async def stock_async(_: Any, exc: Exception, msg: str | None = None, result_store: Any = None) -> None:
        stock(_, exc, msg)

    monkeypatch.setattr(FlowRunEngine, "handle_exception", stock)
    monkeypatch.setattr(AsyncFlowRunEngine, "handle_exception", stock_async)
    known: Callable[[BaseException], str | None] = lambda exc: "It is known." if "worker" in str(exc) else None  # noqa: E731
    engine.explain(known)
    FlowRunEngine.handle_exception(None, ValueError("a worker"))  # type: ignore[arg-type]
    FlowRunEngine.handle_exception(None, ValueError("mine"))  # type: ignore[arg-type]
    FlowRunEngine.handle_exception(None, ValueError("a worker"), msg="Finished in state")  # type: ignore[arg-type]
    await AsyncFlowRunEngine.handle_exception(None, ValueError("a worker"))  # type: ignore[arg-type]
    assert seen == [
        ("a worker", "It is known."),
        ("mine", None),
        ("a worker", "Finished in state"),
        ("a worker", "It is known."),
    ]
