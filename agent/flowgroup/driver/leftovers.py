"""
On a worker: tasks that nobody wants any more, because their run was cancelled or has died, and whose threads go on.

Python cannot end a thread. So after some seconds its place is given to others' tasks, and the process ends when nobody misses
it; its nanny or kubelet starts another. On a busy cluster somebody always would: there the scheduler gives this worker nothing
more and moves what it keeps, and the process ends when what runs here has. Where that takes too long (a task of an hour), or
the results fit nowhere else, the worker takes tasks again, and tries it later. A thread that also holds the interpreter is seen
from the scheduler (`frozen.py`).
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NoReturn

from distributed import Worker
from distributed.core import Status
from distributed.threadpoolexecutor import threads_lock
from distributed.worker_state_machine import SecedeEvent

_logger = logging.getLogger("distributed.worker")
_LOOK_S = 1.0
_PATIENCE_S = 5.0
_LEAVE_S, _LEAVE_LOOK_S = 10.0, 0.1
_MOVE_S = 120.0
_REST_S, _REST_MOST_S = 30.0, 600.0
_NOT_BEGUN = {"waiting", "ready", "constrained"}


def _end() -> NoReturn:
    logging.shutdown()
    os._exit(1)


@dataclass
class Leftovers:
    """
    `end` ends this process. `patience_s`: for how long a task may still end by itself; `leave_s`: for how long this worker
    takes no tasks while it waits for what runs here to end, `move_s` for how long at a time for what it keeps to be moved.
    """

    worker: Worker
    end: Callable[[], object] = _end
    patience_s: float = _PATIENCE_S
    leave_s: float = _LEAVE_S
    move_s: float = _MOVE_S
    leaving: asyncio.Task[None] | None = None
    _leaves_at: float = 0.0
    _rest_s: float = _REST_S
    _since: dict[Any, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Without end. Where this Dask is not as it is known to be, such tasks keep their threads."""
        while True:
            try:
                self.look(monotonic())
            except Exception:  # Dask's inside may be another in another version: whatever comes, the worker lives
                _logger.exception("flowgroup cannot see what this worker runs")
            await asyncio.sleep(_LOOK_S)

    def look(self, now: float) -> None:
        """One look: whose time is over, whether anybody would miss this process, and whether to ask that nobody does."""
        left = self._left()
        self._since = {ts.key: self._since.get(ts.key, now) for ts in left}
        late = [ts for ts in left if now - self._since[ts.key] >= self.patience_s]
        if not late:
            return
        state = self.worker.state
        if not (self._others() or state.ready or state.constrained or state.in_flight_tasks or self.worker.data):
            self._end(late[0].key)
        for ts in late:
            if ts in state.executing:
                self._lend(ts.key, now - self._since[ts.key])
        is_leaving = self.leaving is not None and not self.leaving.done()
        if not is_leaving and now >= self._leaves_at and self.worker.status is Status.running:
            self._leaves_at, self._rest_s = now + self._rest_s, min(2 * self._rest_s, _REST_MOST_S)
            self.leaving = asyncio.create_task(self._leave(late[0].key), name="flowgroup-leaving")

    def _left(self) -> list[Any]:
        state = self.worker.state
        return [ts for ts in state.executing | state.long_running if ts.state == "cancelled"]

    def _others(self) -> int:
        """How many tasks run here that somebody wants."""
        state = self.worker.state
        return len(state.executing | state.long_running) - len(self._left())

    def _end(self, key: Any) -> None:
        _logger.warning("This worker starts anew: nobody wants %s any more, and it does not end", key)
        self.end()

    async def _leave(self, key: Any) -> None:
        """What begins here meanwhile is nothing, so that what is moved in the end is all. Never raises."""
        try:
            if await self._is_moved():
                async with asyncio.timeout(self.leave_s):
                    while not await self._is_done():  # noqa: ASYNC110  Dask has no event for it
                        await asyncio.sleep(_LEAVE_LOOK_S)
                if await self._is_moved():
                    # What waits here runs elsewhere; that we go is `expected`, and not held against those tasks.
                    await self.worker.scheduler.unregister(
                        address=self.worker.address, expected=True, close=False, stimulus_id=f"flowgroup-left-{key}"
                    )
                    self._end(key)
        except TimeoutError:
            _logger.warning("This worker takes tasks again: what runs or is kept beside %s was not gone in time", key)
        except Exception:  # the scheduler may be gone, or another Dask's: whatever comes, the worker lives
            _logger.exception("flowgroup cannot retire this worker")
        finally:
            if self.worker.status is Status.closing_gracefully:
                self.worker.status = Status.running

    async def _is_done(self) -> bool:
        """
        Whether nothing runs here that somebody wants, and the scheduler knows of all that has ended: its word and ours go
        different ways, and what it takes for unfinished it would run again.
        """
        if self._others():
            return False
        address, tasks = self.worker.address, self.worker.state.tasks
        unfinished = (await self.worker.scheduler.processing(workers=[address]))[address]
        return all(tasks[key].state in _NOT_BEGUN for key in unfinished if key in tasks)

    async def _is_moved(self) -> bool:
        """Whether others keep all now that only this worker kept; from here on it gets no tasks. Raises TimeoutError."""
        address = self.worker.address
        async with asyncio.timeout(self.move_s):
            return address in await self.worker.scheduler.retire_workers(
                workers=[address], close_workers=False, remove=False
            )

    def _lend(self, key: Any, for_s: float) -> None:
        """As if the task had called `secede`."""
        with self.worker.active_threads_lock:
            idents = {ident for ident, at_work in self.worker.active_threads.items() if at_work == key}
        executor: Any = self.worker.executors["default"]
        with threads_lock:
            for thread in [one for one in threading.enumerate() if one.ident in idents]:
                executor._threads.discard(thread)
                executor._adjust_thread_count()
        self.worker.handle_stimulus(SecedeEvent(key=key, compute_duration=for_s, stimulus_id=f"flowgroup-left-{key}"))
        _logger.warning("The place of %s is given to others: nobody wants it any more, and it does not end", key)
