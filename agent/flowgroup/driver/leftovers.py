"""
On a worker: tasks that nobody wants any more, because their run was cancelled or has died, and whose threads go on.

Python cannot end a thread. So after some seconds its place is given to others' tasks; once nothing else is at work or kept here
the process ends, and its nanny or kubelet starts another. A thread that also holds the interpreter is seen from the scheduler
(`frozen.py`).
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
from distributed.threadpoolexecutor import threads_lock
from distributed.worker_state_machine import SecedeEvent

_logger = logging.getLogger("distributed.worker")
_LOOK_S = 1.0
_PATIENCE_S = 5.0


def _end() -> NoReturn:
    logging.shutdown()
    os._exit(1)


@dataclass
class Leftovers:
    """`end` ends this process. `patience_s`: for how long a task may still end by itself."""

    worker: Worker
    end: Callable[[], object] = _end
    patience_s: float = _PATIENCE_S
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
        """One look: whose time is over, and whether anybody would miss this process."""
        state = self.worker.state
        left = [ts for ts in state.executing | state.long_running if ts.state == "cancelled"]
        self._since = {ts.key: self._since.get(ts.key, now) for ts in left}
        late = [ts for ts in left if now - self._since[ts.key] >= self.patience_s]
        if not late:
            return
        if self._is_missed_by_nobody(len(left)):
            _logger.warning("This worker starts anew: nobody wants %s any more, and it does not end", late[0].key)
            self.end()
        for ts in late:
            if ts in state.executing:
                self._lend(ts.key, now - self._since[ts.key])

    def _is_missed_by_nobody(self, left: int) -> bool:
        state = self.worker.state
        others = len(state.executing | state.long_running) - left
        return not (others or state.ready or state.constrained or state.in_flight_tasks or self.worker.data)

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
