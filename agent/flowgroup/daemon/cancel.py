"""
Cancellations and suspensions: who is to be asked to end, or to give its process up.

Runs that somebody set to Cancelling or Suspended come by the event stream at once, and by asking every two seconds while
anything is under way. Runs that are over for the API while we still carry them (set to Cancelled, or deleted) are asked to end
after two seconds: an engine that has just said its own end needs a moment for its last records. The journey that carries
the run does the rest. What nothing carries is the reconcile's.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.wake import Wake
from flowgroup.errors import Permanent, Transient
from flowgroup.model.ids import RunId
from flowgroup.model.states import Stops

_ASK_EVERY_S = 2.0
_ASK_EVERY_STREAMED_S = 10.0
_LAST_WORDS_S = 1.9


class Api(Protocol):
    async def to_stop(self, runs: Sequence[RunId]) -> Stops: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run under way was asked for; set once, and never unset."""

    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    suspend: asyncio.Event = field(default_factory=asyncio.Event)


class Cancels:
    """Which runs are under way here, and which of them are to end or to be suspended. `bell`: look now."""

    def __init__(self) -> None:
        self._asked: dict[RunId, Asked] = {}
        self.bell = Wake()

    @contextmanager
    def listening(self, run_id: RunId) -> Iterator[Asked]:
        """What the run is asked for during the block."""
        asked = self._asked[run_id] = Asked()
        try:
            yield asked
        finally:
            del self._asked[run_id]

    def ask(self, run_id: RunId) -> bool:
        """Ask the run to end. False if it is not under way here."""
        asked = self._asked.get(run_id)
        if asked is None:
            return False
        if not asked.cancel.is_set():
            log.get().info("run_cancel_asked", run=run_id)
            asked.cancel.set()
        return True

    def ask_suspend(self, run_id: RunId) -> bool:
        """Ask the run to give its process up. False if it is not under way here."""
        asked = self._asked.get(run_id)
        if asked is None:
            return False
        if not asked.suspend.is_set():
            log.get().info("run_suspend_asked", run=run_id)
            asked.suspend.set()
        return True

    def look_at(self, run_id: RunId) -> None:
        """Something happened to the run that its state tells: look at it now, if it is under way here."""
        if run_id in self._asked:
            self.bell.ring()

    @property
    def under_way(self) -> list[RunId]:
        return list(self._asked)


async def look_for_cancelling(
    api: Api, cancels: Cancels, is_streamed: Callable[[], bool], moved: Callable[[], None]
) -> None:
    """Ask which runs are to stop, without end; more seldom while the event stream says so too."""
    over: dict[RunId, float] = {}
    while True:
        moved()
        over = await _look(api, cancels, over) if cancels.under_way else {}
        await cancels.bell.wait(_ASK_EVERY_STREAMED_S if is_streamed() and not over else _ASK_EVERY_S)


async def _look(api: Api, cancels: Cancels, over: dict[RunId, float]) -> dict[RunId, float]:
    """Since when each run has been over for the API, though it is under way here; `over` is what the last look gave."""
    now = asyncio.get_running_loop().time()
    try:
        stops = await api.to_stop(cancels.under_way)
    except (Transient, Permanent) as exc:  # asked again in two seconds
        log.get().warning("cancelling_not_asked", reason=str(exc))
        return over
    for run_id in stops.suspend:
        cancels.ask_suspend(run_id)
    since = {run_id: over.get(run_id, now) for run_id in stops.over}
    for run_id in stops.cancel | {run_id for run_id, at in since.items() if now - at >= _LAST_WORDS_S}:
        cancels.ask(run_id)
    return since
