"""
Cancellations and suspensions: who is to be asked to end, or to give its process up.

Runs that somebody set to Cancelling or Suspended come by the event stream at once, and by asking every two seconds while
anything is under way. The journey that carries the run does the rest. What nothing carries is the reconcile's.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.errors import Permanent, Transient
from flowgroup.model.ids import RunId
from flowgroup.model.states import SeenRun

_ASK_EVERY_S = 2.0
_ASK_EVERY_STREAMED_S = 10.0


class Api(Protocol):
    async def to_stop(self, runs: Sequence[RunId]) -> list[SeenRun]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run under way was asked for; set once, and never unset."""

    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    suspend: asyncio.Event = field(default_factory=asyncio.Event)


class Cancels:
    """Which runs are under way here, and which of them are to end or to be suspended."""

    def __init__(self) -> None:
        self._asked: dict[RunId, Asked] = {}

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

    @property
    def under_way(self) -> list[RunId]:
        return list(self._asked)


async def look_for_cancelling(
    api: Api, cancels: Cancels, is_streamed: Callable[[], bool], moved: Callable[[], None]
) -> None:
    """Ask which runs are to stop, without end; more seldom while the event stream says so too."""
    while True:
        moved()
        if cancels.under_way:
            await _look(api, cancels)
        await asyncio.sleep(_ASK_EVERY_STREAMED_S if is_streamed() else _ASK_EVERY_S)


async def _look(api: Api, cancels: Cancels) -> None:
    try:
        for run in await api.to_stop(cancels.under_way):
            if run.state.is_suspended:
                cancels.ask_suspend(run.id)
            else:
                cancels.ask(run.id)
    except (Transient, Permanent) as exc:  # asked again in two seconds
        log.get().warning("cancelling_not_asked", reason=str(exc))
