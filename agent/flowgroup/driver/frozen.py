"""
In the scheduler: workers that a task holds by their interpreter, and that nobody wants to end any more.

Such a worker says nothing, not even that it lives, and what waits for it waits for ever: native code that keeps the
interpreter to itself is all that runs there. As long as somebody wants that task it may take its time. When its run was
cancelled or has died, the worker's process is killed by its nanny, which starts another; without one (a pod) the scheduler
sends what was on it elsewhere.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from distributed import Scheduler, SchedulerPlugin

_logger = logging.getLogger("distributed.scheduler")
_LOOK_S = 1.0
_SILENT_S = 8.0
_KILL_S = 20.0


@dataclass
class _Heard:
    """A worker since it spoke last: `at` by our clock; `taken`: what was given to it and taken from it again."""

    last_seen: float
    at: float
    taken: set[Any] = field(default_factory=set)


@dataclass
class Frozen(SchedulerPlugin):
    """
    Is told of every task's state by the scheduler: one may be given and taken again between two looks. `_given`: the worker
    of each task under way. One that was stolen changes its worker without a word, which the next look sees.
    """

    scheduler: Scheduler
    silent_s: float = _SILENT_S
    clock: Callable[[], float] = monotonic
    name: str = "flowgroup-frozen"
    _heard: dict[str, _Heard] = field(default_factory=dict)
    _given: dict[Any, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Without end. Where this Dask is not as it is known to be, such workers stay as they are."""
        self.scheduler.add_plugin(self)
        while True:
            try:
                if frozen := self.look():
                    await self._restart(frozen)
            except Exception:  # Dask's inside may be another in another version: whatever comes, the scheduler lives
                _logger.exception("flowgroup cannot see which workers are frozen")
            await asyncio.sleep(_LOOK_S)

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """A worker that finishes a task speaks, too."""
        if start == "processing":
            self._ended(key, self._given.pop(key, None), finish)
        if finish == "processing" and (ws := self.scheduler.tasks[key].processing_on) is not None:
            self._given[key] = ws.address

    def look(self) -> list[str]:
        """Addresses of the workers that are silent, and were so when something was taken from them that they worked at."""
        there = self.scheduler.workers
        self._heard = {address: heard for address, heard in self._heard.items() if address in there}
        return [address for address, ws in there.items() if self._is_frozen(address, ws)]

    def _ended(self, key: Any, address: str | None, finish: str) -> None:
        ws = self.scheduler.workers.get(address) if address else None
        if address is None or ws is None:
            return
        if finish in ("memory", "erred"):
            self._heard[address] = _Heard(ws.last_seen, self.clock())
        else:
            self._of(address, ws).taken.add(key)

    def _of(self, address: str, ws: Any) -> _Heard:
        heard = self._heard.get(address)
        if heard is None or heard.last_seen != ws.last_seen:
            heard = self._heard[address] = _Heard(ws.last_seen, self.clock())
        return heard

    def _is_frozen(self, address: str, ws: Any) -> bool:
        heard = self._of(address, ws)
        given = {ts.key for ts in ws.processing}
        self._given.update(dict.fromkeys(given, address))
        wanted = {ts.key for ts in ws.executing} & given
        return bool(heard.taken - given) and not wanted and self.clock() - heard.at >= self.silent_s

    async def _restart(self, addresses: list[str]) -> None:
        for address in addresses:
            self._heard.pop(address, None)
        _logger.warning("%s are frozen by tasks that nobody wants any more: they start anew", addresses)
        await self.scheduler.restart_workers(
            addresses, timeout=_KILL_S, wait_for_workers=False, on_error="return", stimulus_id="flowgroup-frozen"
        )
