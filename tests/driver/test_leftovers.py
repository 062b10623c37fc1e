"""Tasks that nobody wants any more and that do not end: a real Dask scheduler and workers, one of them a process of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker

from flowgroup.driver.frozen import Frozen
from flowgroup.driver.leftovers import Leftovers

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]
_GATES: dict[str, threading.Event] = {}


def hang(gate: str) -> None:
    """Until the test lets it go on: tasks are threads of the test's own process."""
    _GATES[gate].wait(60)


@dataclass
class Lab:
    """A worker of one thread. `ended`: how often it would have ended its process."""

    client: Client
    other: Client
    worker: Worker
    leftovers: Leftovers
    ended: list[int] = field(default_factory=list)

    async def until(self, is_so: Callable[[], Any], what: str) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.02)
        assert is_so(), what

    async def hung(self) -> Any:
        future = self.client.submit(hang, "gate", pure=False)
        await self.until(lambda: self.worker.state.executing, "it runs")
        return future

    async def cancelled(self) -> None:
        """As when the run's client goes."""
        await self.client.close()
        await self.until(lambda: any(ts.state == "cancelled" for ts in self.worker.state.executing), "it is cancelled")


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    _GATES["gate"] = threading.Event()
    try:
        async with AsyncExitStack() as stack:
            scheduler = await stack.enter_async_context(Scheduler(host="127.0.0.1", port=0, dashboard_address=":0"))
            clients = [
                await stack.enter_async_context(Client(scheduler.address, asynchronous=True, set_as_default=False))
                for _ in range(2)
            ]
            worker = await stack.enter_async_context(Worker(scheduler.address, nthreads=1, dashboard=False))
            ended: list[int] = []
            leftovers = Leftovers(worker, lambda: ended.append(1), patience_s=5.0)
            yield Lab(clients[0], clients[1], worker, leftovers, ended)
            _GATES["gate"].set()
    finally:
        _GATES["gate"].set()


async def test_a_task_that_somebody_wants_may_take_its_time() -> None:
    async with lab() as at:
        future = await at.hung()
        at.leftovers.look(0.0)
        at.leftovers.look(1000.0)
        assert not at.ended
        assert len(at.worker.state.executing) == 1
        _GATES["gate"].set()
        await future


async def test_a_worker_that_nobody_misses_starts_anew() -> None:
    async with lab() as at:
        await at.hung()
        await at.cancelled()
        at.leftovers.look(0.0)
        at.leftovers.look(4.9)
        assert not at.ended
        at.leftovers.look(5.1)
        assert at.ended == [1]


async def test_the_place_of_a_leftover_is_given_to_what_others_wait_for() -> None:
    async with lab() as at:
        await at.hung()
        waiting = at.other.submit(sum, [1, 2], pure=False)
        await at.until(lambda: at.worker.state.ready, "another's task waits for the thread")
        await at.cancelled()
        assert at.worker.state.ready
        at.leftovers.look(0.0)
        at.leftovers.look(5.1)
        assert not at.ended
        assert await asyncio.wait_for(waiting, 20) == 3
        at.leftovers.look(6.0)
        assert not at.ended, "its result is kept here"
        waiting.release()
        await at.until(lambda: not at.worker.data, "nothing is kept here")
        at.leftovers.look(7.0)
        assert at.ended == [1]
        _GATES["gate"].set()
        await at.until(lambda: not at.worker.state.long_running, "it has ended after all")


async def test_a_leftover_that_ends_by_itself_in_time_changes_nothing() -> None:
    async with lab() as at:
        await at.hung()
        await at.cancelled()
        at.leftovers.look(0.0)
        _GATES["gate"].set()
        await at.until(lambda: not at.worker.state.executing, "it has ended")
        at.leftovers.look(100.0)
        assert not at.ended
        assert await at.other.submit(sum, [1], pure=False) == 1


# The scheduler's side, which looks at nothing but numbers


def worker(last_seen: float, *given: str, at_work: tuple[str, ...] = ()) -> Any:
    def task(key: str) -> Any:
        return SimpleNamespace(key=key)

    return SimpleNamespace(
        last_seen=last_seen, processing=[task(key) for key in given], executing=[*map(task, at_work)]
    )


@dataclass
class Looks:
    """What the scheduler sees of one worker, second by second."""

    frozen: Frozen = field(default_factory=lambda: Frozen(SimpleNamespace(workers={}), silent_s=8.0))  # type: ignore[arg-type]

    def look(self, now: float, seen: Any) -> bool:
        self.frozen.scheduler.workers = {"tcp://w": seen} if seen else {}  # type: ignore[assignment]
        return bool(self.frozen.look(now))


def test_a_silent_worker_whose_task_is_wanted_is_left_alone() -> None:
    looks = Looks()
    for now in range(100):
        assert not looks.look(now, worker(0.0, "a", at_work=("a",)))


def test_a_silent_worker_whose_task_nobody_wants_any_more_is_frozen() -> None:
    looks = Looks()
    found = [looks.look(now, worker(0.0, *(["a", "b"] if now < 5 else ["b"]), at_work=("a",))) for now in range(10)]
    assert found == [False] * 8 + [True] * 2


def test_a_silent_worker_is_left_alone_while_it_may_be_at_something_that_is_wanted() -> None:
    looks = Looks()
    for now in range(100):
        given = ["a", "b"] if now < 5 else ["a"]  # another's task, which waited behind it, was cancelled
        assert not looks.look(now, worker(0.0, *given, at_work=("a",)))


def test_a_worker_that_speaks_is_not_frozen_whatever_is_taken_from_it() -> None:
    looks = Looks()
    for now in range(100):
        assert not looks.look(now, worker(float(now), *(["a"] if now % 2 else [])))
    assert not looks.look(101, None)
    assert not looks.frozen._seen


@pytest.mark.real
@pytest.mark.timeout(600)
async def test_a_worker_that_is_held_by_native_code_is_killed_and_comes_again(tmp_path: Path) -> None:
    from distributed import Nanny

    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(Scheduler(host="127.0.0.1", port=0, dashboard_address=":0"))
        thawing = asyncio.create_task(Frozen(scheduler, silent_s=2.0).run())
        stack.callback(thawing.cancel)
        nanny = Nanny(scheduler.address, nthreads=1, local_directory=str(tmp_path), dashboard=False)
        await stack.enter_async_context(nanny)
        other = await stack.enter_async_context(Client(scheduler.address, asynchronous=True, set_as_default=False))
        async with Client(scheduler.address, asynchronous=True, set_as_default=False) as client:
            started = tmp_path / "started"
            future = client.submit(_freeze, str(started), pure=False)
            async with asyncio.timeout(120):
                while not started.exists():
                    await asyncio.sleep(0.05)
            before = nanny.pid
            del future
        async with asyncio.timeout(120):
            assert await other.submit(sum, [1, 2], pure=False) == 3
        assert nanny.pid != before


def _freeze(started: str) -> None:
    import re

    Path(started).touch()
    re.match("(a+)+$", "a" * 64 + "b")
