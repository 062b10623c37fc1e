"""One cluster as the daemon knows it: who needs it, how it is used, and whether it may go. `clusters.py` decides with it."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from flowgroup.errors import Permanent
from flowgroup.model.clusters import Found, Kept
from flowgroup.model.ids import RunId
from flowgroup.model.orders import Remark

Phase = Literal["starting", "busy", "prewarmed", "idle"]
"""Not ready yet; with runs; kept for one that comes soon; kept for its idle time."""


class ClusterFailed(Permanent):
    """
    This cluster will never be ready. The text says why, and what to do; `start_log` is what a failed start script said.

    `may_pass`: another cluster in its place may well be.
    """

    def __init__(self, message: str, start_log: tuple[str, ...] = (), *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.start_log = start_log
        self.may_pass = may_pass


@dataclass(slots=True)
class Cluster:
    """
    One name: the cluster that exists under it, if any, and who needs it. `idle_since` is of the event loop's clock.

    `may_exist`: it was to be made, and the backend has not said that it is, or that it is gone.
    """

    found: Found | None = None
    may_exist: bool = False
    leases: set[RunId] = field(default_factory=set)
    expected: dict[RunId, asyncio.Event] = field(default_factory=dict)
    turn: RunId | None = None
    is_turn_wanted: bool = False
    idle_since: float = 0.0
    idle_timeout_s: float = 0.0
    is_draining: bool = False
    remarks: tuple[Remark, ...] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_unneeded(self) -> bool:
        """Whether it is there and nobody needs it now."""
        return self.found is not None and not (self.leases or self.expected or self.turn)

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is left to know of it."""
        is_needed = self.leases or self.expected or self.turn or self.lock.locked()
        return not (self.found or self.may_exist or is_needed)

    def is_idle(self, now: float) -> bool:
        """Whether it is to go: nobody has needed it for its idle time, or it has been drained. `now` as `idle_since`."""
        if not (self.found or self.may_exist) or self.leases or self.turn:
            return False
        if self.is_draining:
            return True
        return not self.expected and now - self.idle_since >= self.idle_timeout_s

    def phase(self, *, is_ready: bool) -> Phase:
        if not is_ready:
            return "starting"
        if self.leases:
            return "busy"
        return "prewarmed" if self.expected else "idle"

    def kept(self, now: float) -> Kept | None:
        """All that it lives for; None if it is not there. `now` as `idle_since`."""
        if self.found is None:
            return None
        needed = self.leases or self.expected or self.turn
        return Kept(
            spec=self.found.spec,
            leases=tuple(sorted(self.leases)),
            expected=tuple(sorted(self.expected)),
            is_draining=self.is_draining,
            idle_s=0.0 if needed else max(0.0, now - self.idle_since),
            idle_timeout_s=self.idle_timeout_s,
        )
