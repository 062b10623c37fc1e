"""Pass on what the event stream says: ring the poll, ask a run to end or to be suspended, drop what was cached."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.wake import Wake
from flowgroup.edge.events import Notice
from flowgroup.model.ids import RunId


class Events(Protocol):
    def notices(self) -> AsyncIterator[Notice]: ...


class Cancels(Protocol):
    def ask(self, run_id: RunId) -> bool: ...
    def ask_suspend(self, run_id: RunId) -> bool: ...
    def look_at(self, run_id: RunId) -> None: ...


async def listen(events: Events, poll: Wake, cancels: Cancels, changed: Callable[[], None]) -> None:
    """Without end."""
    async for notice in events.notices():
        log.get().debug("event_heard", kind=notice.kind, run=notice.run)
        if notice.run and notice.kind == "cancelling":
            cancels.ask(notice.run)
            continue
        if notice.run and notice.kind == "suspended":
            cancels.ask_suspend(notice.run)
            continue
        if notice.run and notice.kind == "over":
            cancels.look_at(notice.run)
            continue
        if notice.kind != "due":
            changed()
        poll.ring()
