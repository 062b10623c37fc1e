"""
In the scheduler: workers that a task holds by their interpreter, and that nobody wants to end any more.

Such a worker says nothing, not even that it lives, and what waits for it waits for ever: native code that keeps the
interpreter to itself is all that runs there. As long as somebody wants that task it may take its time. When its run was
cancelled or has died, the worker's process is killed by its nanny, which starts another; without one (a pod) the scheduler
sends what was on it elsewhere.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from distributed import Scheduler

_logger = logging.getLogger("distributed.scheduler")
_LOOK_S = 1.0
_SILENT_S = 8.0
_KILL_S = 20.0


@dataclass
class _Seen:
    """A worker as it was when it spoke last, by our clock. `had`: what has been given to it, from then on."""

    last_seen: float
    at: float
    had: set[Any]


@dataclass
class Frozen:
    scheduler: Scheduler
    silent_s: float = _SILENT_S
    _seen: dict[str, _Seen] = field(default_factory=dict)

    async def run(self) -> None:
        """Without end. Where this Dask is not as it is known to be, such workers stay as they are."""
        while True:
            try:
                if frozen := self.look(monotonic()):
                    await self._restart(frozen)
            except Exception:  # Dask's inside may be another in another version: whatever comes, the scheduler lives
                _logger.exception("flowgroup cannot see which workers are frozen")
            await asyncio.sleep(_LOOK_S)

    def look(self, now: float) -> list[str]:
        """Addresses of the workers that are silent, and were so when something was taken from them that they worked at."""
        there = self.scheduler.workers
        self._seen = {address: seen for address, seen in self._seen.items() if address in there}
        return [address for address, ws in there.items() if self._is_frozen(address, ws, now)]

    def _is_frozen(self, address: str, ws: Any, now: float) -> bool:
        given = {ts.key for ts in ws.processing}
        seen = self._seen.get(address)
        if seen is None or seen.last_seen != ws.last_seen:
            self._seen[address] = _Seen(ws.last_seen, now, given)
            return False
        seen.had |= given
        wanted = {ts.key for ts in ws.executing} & given
        return bool(seen.had - given) and not wanted and now - seen.at >= self.silent_s

    async def _restart(self, addresses: list[str]) -> None:
        for address in addresses:
            self._seen.pop(address, None)
        _logger.warning("%s are frozen by tasks that nobody wants any more: they start anew", addresses)
        await self.scheduler.restart_workers(
            addresses, timeout=_KILL_S, wait_for_workers=False, on_error="return", stimulus_id="flowgroup-frozen"
        )
