"""Tasks that nobody wants any more and that do not end: a real Dask scheduler and workers, one of them a process of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, Worker
from distributed.core import Status, rpc

from flowgroup.driver.frozen import Frozen
from flowgroup.driver.leftovers import Leftovers

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]
_GATES: dict[str, threading.Event] = {}


def hang(gate: str) -> None:
    """Until the test lets it go on: tasks are threads of the test's own process."""
    _GATES[gate].wait(60)


@dataclass
class Lab:
    """A worker of one thread, and maybe a second. `ended`: how often the first would have ended its process."""

    client: Client
    other: Client
    worker: Worker
    leftovers: Leftovers
    scheduler: Scheduler
    ended: list[int] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)  # a future that nobody holds is released

    async def left(self) -> None:
        """What it began when it was missed has come to its end."""
        assert self.leftovers.leaving
        await asyncio.wait_for(self.leftovers.leaving, 30)

    async def until(self, is_so: Callable[[], Any], what: str) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.02)
        assert is_so(), what

    async def hung(self) -> Any:
        future = self.client.submit(hang, "gate", pure=False, workers=[self.worker.address])
        await self.until(lambda: self.worker.state.executing, "it runs")
        return future

    async def keeps(self) -> Any:
        """Another's result, which only this worker has."""
        kept = self.other.submit(sum, [1, 2], pure=False, workers=[self.worker.address])
        self.kept.append(kept)
        assert await kept == 3
        return kept

    async def left_over(self) -> None:
        """A task that hangs, that nobody wants any more, and that was seen at 0 s."""
        await self.hung()
        await self.cancelled()
        self.leftovers.look(0.0)

    async def cancelled(self) -> None:
        """As when the run's client goes."""
        await self.client.close()
        await self.until(lambda: any(ts.state == "cancelled" for ts in self.worker.state.executing), "it is cancelled")


@asynccontextmanager
async def lab(workers: int = 1) -> AsyncIterator[Lab]:
    _GATES["gate"] = threading.Event()
    try:
        async with AsyncExitStack() as stack:
            # A task stays where the test wants it.
            stack.enter_context(dask.config.set({"distributed.scheduler.work-stealing": False}))
            scheduler = await stack.enter_async_context(Scheduler(host="127.0.0.1", port=0, dashboard_address=":0"))
            clients = [
                await stack.enter_async_context(Client(scheduler.address, asynchronous=True, set_as_default=False))
                for _ in range(2)
            ]
            worker = await stack.enter_async_context(Worker(scheduler.address, nthreads=1, dashboard=False))
            ended: list[int] = []
            for _ in range(1, workers):
                await stack.enter_async_context(Worker(scheduler.address, nthreads=1, dashboard=False))
            leftovers = Leftovers(worker, lambda: ended.append(1), patience_s=5.0, leave_s=1.0)
            yield Lab(clients[0], clients[1], worker, leftovers, scheduler, ended)
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
        await at.left_over()
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
        await at.left()
        at.leftovers.look(6.0)
        assert not at.ended, "its result is kept here"
        waiting.release()
        await at.until(lambda: not at.worker.data, "nothing is kept here")
        at.leftovers.look(7.0)
        assert at.ended == [1]
        _GATES["gate"].set()
        await at.until(lambda: not at.worker.state.long_running, "it has ended after all")


async def test_what_others_keep_here_is_moved_and_the_worker_starts_anew() -> None:
    async with lab(workers=2) as at:
        kept = await at.keeps()
        await at.left_over()
        at.leftovers.look(5.1)
        assert not at.ended, "a result is kept here"
        await at.left()
        assert at.ended == [1]
        assert at.worker.address not in at.scheduler.workers
        assert await asyncio.wait_for(kept, 20) == 3
        assert at.scheduler.tasks[kept.key].who_has, "it was moved, not made again"
        runs = [log for log in at.scheduler.transition_log if log[0] == kept.key and log[2] == "processing"]
        assert len(runs) == 1


async def test_the_worker_starts_anew_when_what_runs_here_has_ended_and_what_waits_here_runs_elsewhere() -> None:
    _GATES["others"] = threading.Event()
    async with lab(workers=2) as at:
        await at.left_over()
        here = {"workers": [at.worker.address], "allow_other_workers": True}
        running, waiting = (at.other.submit(hang, "others", pure=False, **here) for _ in range(2))
        await at.until(lambda: len(at.worker.state.ready) == 2, "both are given to it")
        at.leftovers.look(5.1)
        await at.until(lambda: at.worker.status is Status.closing_gracefully, "it is given nothing more")
        assert not at.ended
        _GATES["others"].set()
        await at.left()
        assert at.ended == [1]
        assert await asyncio.wait_for(at.other.gather([running, waiting]), 20) == [None, None]
        assert not any(at.scheduler.tasks[future.key].suspicious for future in (running, waiting))


async def test_a_worker_whose_others_take_long_takes_tasks_again_and_tries_it_later() -> None:
    _GATES["others"] = threading.Event()
    async with lab(workers=2) as at:
        await at.left_over()
        long = at.other.submit(hang, "others", pure=False, workers=[at.worker.address])
        await at.until(lambda: at.worker.state.ready, "it is given to it")
        at.leftovers.look(5.1)
        await at.left()
        first = at.leftovers.leaving
        assert not at.ended
        assert at.worker.status is Status.running
        await at.until(lambda: len(at.scheduler.running) == 2, "the scheduler knows")
        at.leftovers.look(35.0)
        assert at.leftovers.leaving is first, "not at once"
        at.leftovers.look(35.2)
        assert at.leftovers.leaving is not first
        _GATES["others"].set()
        await at.left()
        assert at.ended == [1]
        assert await asyncio.wait_for(long, 20) is None


async def test_a_worker_does_not_go_before_the_scheduler_knows_what_has_ended_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _GATES["others"] = threading.Event()
    async with lab(workers=2) as at:
        await at.left_over()
        future = at.other.submit(hang, "others", pure=False, workers=[at.worker.address], allow_other_workers=True)
        await at.until(lambda: at.worker.state.ready, "it is given to it")
        at.leftovers.look(5.1)
        loop, send = asyncio.get_running_loop(), at.worker.batched_stream.send
        monkeypatch.setattr(at.worker.batched_stream, "send", lambda *said: loop.call_later(0.5, send, *said))
        _GATES["others"].set()
        await at.left()
        assert at.ended == [1]
        assert await asyncio.wait_for(future, 20) is None
        runs = [log for log in at.scheduler.transition_log if log[0] == future.key and log[2] == "processing"]
        assert len(runs) == 1


async def test_a_worker_whose_results_are_not_moved_in_time_takes_tasks_again() -> None:
    async with lab(workers=2) as at:
        await at.keeps()
        await at.left_over()
        at.leftovers.move_s = 0.5
        at.scheduler.extensions["amm"].run_once = lambda: None  # type: ignore[attr-defined]
        at.leftovers.look(5.1)
        await at.until(lambda: at.worker.status is Status.closing_gracefully, "it is given nothing more")
        await at.left()
        assert not at.ended
        assert at.worker.status is Status.running
        assert await at.other.submit(sum, [2, 2], pure=False, workers=[at.worker.address]) == 4


async def test_a_worker_whose_scheduler_is_gone_lives_on() -> None:
    async with lab() as at:
        await at.keeps()
        await at.left_over()
        at.worker.scheduler = rpc("tcp://127.0.0.1:1", timeout=0.5)  # type: ignore[assignment]
        at.leftovers.look(5.1)
        await at.left()
        assert not at.ended
        assert at.worker.status is Status.running


async def test_a_leftover_that_ends_by_itself_in_time_changes_nothing() -> None:
    async with lab() as at:
        await at.left_over()
        _GATES["gate"].set()
        await at.until(lambda: not at.worker.state.executing, "it has ended")
        at.leftovers.look(100.0)
        assert not at.ended
        assert await at.other.submit(sum, [1], pure=False) == 1


# The scheduler's side: a worker `w`, second by second, as the scheduler sees it and tells of it


@dataclass
class Looks:
    last_seen: float = 0.0
    now: float = 0.0
    tasks: dict[str, Any] = field(default_factory=dict)
    at_work: tuple[str, ...] = ()  # by its last heartbeat
    frozen: Frozen = field(init=False)

    def __post_init__(self) -> None:
        self.frozen = Frozen(self, silent_s=8.0, clock=lambda: self.now)  # type: ignore[arg-type]

    @property
    def workers(self) -> dict[str, Any]:
        working = [SimpleNamespace(key=key) for key in self.at_work]
        return {"w": SimpleNamespace(last_seen=self.last_seen, processing=self.tasks.values(), executing=working)}

    def gives(self, *keys: str, to: str = "w") -> None:
        for key in keys:
            self.tasks[key] = SimpleNamespace(key=key, processing_on=SimpleNamespace(address=to))
            self.frozen.transition(key, "waiting", "processing", stimulus_id="")

    def ends(self, key: str, finish: str) -> None:
        del self.tasks[key]
        self.frozen.transition(key, "processing", finish, stimulus_id="")

    def look(self, at: float) -> bool:
        self.now = at
        return bool(self.frozen.look())


def test_a_silent_worker_whose_task_is_wanted_is_left_alone() -> None:
    looks = Looks(at_work=("a",))
    looks.gives("a")
    assert not any(looks.look(now) for now in range(100))


@pytest.mark.parametrize("heartbeat", [False, True])
def test_a_silent_worker_whose_task_nobody_wants_any_more_is_frozen(heartbeat: bool) -> None:
    looks = Looks(at_work=("a",) if heartbeat else ())
    looks.gives("a", "b")
    found = []
    for now in range(10):
        if now == 5:
            looks.ends("a", "released")
        found.append(looks.look(now))
    assert found == [False] * 8 + [True] * 2


def test_what_was_given_and_taken_between_two_looks_is_known() -> None:
    looks = Looks()
    assert not looks.look(0)
    looks.now = 0.5
    looks.last_seen = 0.4  # a heartbeat that nobody has looked at yet
    looks.gives("a")
    looks.ends("a", "forgotten")
    assert [looks.look(now) for now in (1, 8, 9)] == [False, False, True]


def test_a_task_that_was_stolen_froze_who_stole_it() -> None:
    looks = Looks()
    looks.gives("a", to="elsewhere")
    assert not looks.look(0)  # `w` has it by now, and the scheduler has told nobody
    looks.ends("a", "released")
    assert [looks.look(now) for now in (7, 8)] == [False, True]


def test_a_silent_worker_is_left_alone_while_it_may_be_at_something_that_is_wanted() -> None:
    looks = Looks(at_work=("a",))
    looks.gives("a", "b")
    looks.ends("b", "released")  # another's task, which waited behind it, was cancelled
    assert not any(looks.look(now) for now in range(100))


def test_a_worker_that_has_finished_a_task_and_is_silent_at_the_next_is_left_alone() -> None:
    looks = Looks(at_work=("a",))
    looks.gives("a", "b")
    looks.ends("a", "memory")
    assert not any(looks.look(now) for now in range(100))


def test_a_worker_that_speaks_is_not_frozen_whatever_is_taken_from_it() -> None:
    looks = Looks()
    for now in range(100):
        looks.last_seen = now
        looks.gives("a")
        looks.ends("a", "released")
        assert not looks.look(now)


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
