"""
Wait until an attempt has ended, and say how.

In: a SentRun. Out: its Outcome. A level: it looks at what the driver says now and, when the driver is silent, at what
the backend says about its process. It changes nothing, except that it passes on what the run is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.cancel import Asked
from flowgroup.daemon.diagnose import outcome_of
from flowgroup.daemon.view import View
from flowgroup.model.causes import marked, said
from flowgroup.model.clusters import Fate
from flowgroup.model.ids import AttemptId, ClusterName
from flowgroup.model.orders import Attempt, Exit
from flowgroup.model.runs import Lost, Outcome, SentRun

_LOOK_EVERY_S = 1.0


class Drivers(Protocol):
    def view(self, cluster: ClusterName) -> View: ...
    def cancel(self, cluster: ClusterName, attempt: AttemptId, grace_s: float) -> None: ...
    def suspend(self, cluster: ClusterName, attempt: AttemptId) -> None: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """`look` says why a cluster's processes are dead, or None while they live; `fate` whether they were taken from it."""

    drivers: Drivers
    look: Callable[[ClusterName], Awaitable[str | None]]
    fate: Callable[[ClusterName], Awaitable[Fate]]
    cancel_grace_s: float
    driver_lost_s: float

    async def outcome(self, sent: SentRun, *, asked: Asked, on_running: Callable[[], None]) -> Outcome:
        """Wait for the end, and pass on what is asked for meanwhile; `on_running` is called once."""
        told: set[asyncio.Event] = set()
        is_running = False
        while True:
            view = self.drivers.view(sent.cluster)
            with view.bell(sent.attempt) as changed:
                attempt = view.attempts.get(sent.attempt)
                if attempt and attempt.phase != "starting" and not is_running:
                    is_running = True
                    on_running()
                if outcome := ended(view, sent, attempt, cancelled=asked.cancel.is_set()) or await self._dead(
                    view, sent
                ):
                    return outcome
                self._pass_on(sent, asked, told)
                await first_of(changed, *({asked.cancel, asked.suspend} - told), timeout_s=self._look_again_s(view))

    def _pass_on(self, sent: SentRun, asked: Asked, told: set[asyncio.Event]) -> None:
        if asked.suspend.is_set() and asked.suspend not in told:
            told.add(asked.suspend)
            self.drivers.suspend(sent.cluster, sent.attempt)
        if asked.cancel.is_set() and asked.cancel not in told:
            told.add(asked.cancel)
            self.drivers.cancel(sent.cluster, sent.attempt, self.cancel_grace_s)

    def _look_again_s(self, view: View) -> float:
        return _LOOK_EVERY_S if self._is_silent(view) else max(_LOOK_EVERY_S, self.driver_lost_s)

    async def _dead(self, view: View, sent: SentRun) -> Outcome | None:
        if not self._is_silent(view):
            return None
        reason = await self.look(sent.cluster)
        if reason is None:
            return None
        log.get().warning("driver_dead", cluster=sent.cluster, run=sent.id, reason=reason)
        is_untaken = sent.attempt in view.orders and sent.attempt not in view.seen
        when = "before it took the run" if is_untaken else "while the run was on it"
        was_taken = await self.fate(sent.cluster) == "taken"
        return Lost(f"The driver of cluster {sent.cluster} ended {when}: {reason}", was_taken)

    def _is_silent(self, view: View) -> bool:
        silent_s = asyncio.get_running_loop().time() - view.heard_at
        return not view.is_connected or silent_s > self.driver_lost_s


def ended(view: View, sent: SentRun, attempt: Attempt | None, *, cancelled: bool) -> Outcome | None:
    """What the driver's last word says about the attempt's end; None if it has not ended, or nothing is known yet."""
    if attempt:
        return outcome_of(attempt.exit or Exit(), cancelled=cancelled) if attempt.phase == "ended" else None
    if not view.is_connected or view.status is None or sent.attempt in view.orders:
        return None
    if sent.attempt in view.seen:
        return Lost(said("driver-restarted", name=sent.cluster))
    before = f"The driver of cluster {sent.cluster} was started again before it took the run."
    return Lost(marked("driver-restarted", before))


async def first_of(*events: asyncio.Event, timeout_s: float) -> None:
    """Wait until one of the events is set, for at most `timeout_s`."""
    waits = [asyncio.create_task(event.wait(), name="wait for a change") for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
