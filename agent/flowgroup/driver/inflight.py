"""
How many tasks of a run may be on their way at once, so that a storm of tasks is bounded in memory everywhere.

Whoever submits waits, and only for tasks that were submitted before. Where none of them ends, they may be waiting for
what the flow does next: then the bound gives way.
"""

import time
from collections.abc import Callable
from threading import Lock

_LOOK_S = 0.02


class InFlight:
    """`pending` counts the tasks that were submitted and are not done."""

    def __init__(self, pending: Callable[[], int], *, limit: int = 2000, patience_s: float = 20.0) -> None:
        self._pending = pending
        self._limit = limit
        self._patience_s = patience_s
        self._free = limit  # so many may go before it must be counted again
        self._lock = Lock()

    @property
    def limit(self) -> int:
        return self._limit

    def wait_for_room(self) -> None:
        """Return when one more task may be submitted."""
        with self._lock:
            if self._free <= 0:
                self._free = self._wait()
            self._free -= 1

    def _wait(self) -> int:
        least, deadline = self._pending(), time.monotonic() + self._patience_s
        while least >= self._limit:
            time.sleep(_LOOK_S)
            now = self._pending()
            if now < least:
                least, deadline = now, time.monotonic() + self._patience_s
            elif time.monotonic() > deadline:
                self._limit = 2 * least
        return self._limit - least
