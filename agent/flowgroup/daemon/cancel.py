"""
Cancellations: who is to be asked to end.

Runs that somebody set to Cancelling come by the event stream at once, and by asking every two seconds while there is
anything to cancel. The journey that carries the run does the rest. What nothing carries is the reconcile's.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from flowgroup import log
from flowgroup.errors import Permanent, Transient
from flowgroup.model.ids import RunId
from flowgroup.model.states import SeenRun, StateType

_ASK_EVERY_S = 2.0
_ASK_EVERY_STREAMED_S = 10.0


class Api(Protocol):
    async def runs_in(self, *types: StateType) -> list[SeenRun]: ...


class Cancels:
    """Which runs are under way here, and which of them are to end."""

    def __init__(self) -> None:
        self._asked: dict[RunId, asyncio.Event] = {}

    @contextmanager
    def listening(self, run_id: RunId) -> Iterator[asyncio.Event]:
        """An event which is set when the run is to be cancelled."""
        asked = self._asked[run_id] = asyncio.Event()
        try:
            yield asked
        finally:
            del self._asked[run_id]

    def ask(self, run_id: RunId) -> bool:
        """Ask the run to end. False if it is not under way here."""
        asked = self._asked.get(run_id)
        if asked is None:
            return False
        if not asked.is_set():
            log.get().info("run_cancel_asked", run=run_id)
            asked.set()
        return True

    @property
    def any_under_way(self) -> bool:
        return bool(self._asked)


async def look_for_cancelling(
    api: Api, cancels: Cancels, is_streamed: Callable[[], bool], moved: Callable[[], None]
) -> None:
    """Ask which runs are Cancelling, without end; more seldom while the event stream says so too."""
    while True:
        moved()
        if cancels.any_under_way:
            await _look(api, cancels)
        await asyncio.sleep(_ASK_EVERY_STREAMED_S if is_streamed() else _ASK_EVERY_S)


async def _look(api: Api, cancels: Cancels) -> None:
    try:
        for run in await api.runs_in("CANCELLING"):
            cancels.ask(run.id)
    except (Transient, Permanent) as exc:  # asked again in two seconds
        log.get().warning("cancelling_not_asked", reason=str(exc))
