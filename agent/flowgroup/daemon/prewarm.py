"""
Clusters made ahead of their runs: a run known to come soon has its cluster ready at its time.

In: runs that are not to be claimed yet, asked for rarely and apart from what is due, so that they never stand in its way.
Out: their clusters, made and kept until the run's own journey has its lease, or is not to be expected any more. Nothing is
claimed here, and nothing is told: what is wrong with a run or its cluster is its journey's to say.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from flowgroup import log
from flowgroup.daemon import plan as plan_room
from flowgroup.daemon.placement import Policy
from flowgroup.daemon.plan import planned
from flowgroup.daemon.poll import utc_now
from flowgroup.daemon.wake import Wake
from flowgroup.errors import FlowgroupError, Permanent
from flowgroup.model.clusters import Found
from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.runs import DueRun, Placement
from flowgroup.model.spec import ClusterSpec

_ASK_EVERY_S = 10.0
_PAGE = 200
_KEPT_AFTER_S = 60.0
_BOOT_FACTOR = 1.5
_BOOT_MARGIN_S = 5.0


class Api(plan_room.Api, Protocol):
    async def due(
        self, *, limit: int, before: datetime, after: datetime | None = None, queues: Sequence[str] = ()
    ) -> list[DueRun]: ...


class Clusters(Protocol):
    def slowest_boot_s(self, spec: ClusterSpec) -> float | None: ...
    def names(self) -> list[ClusterName]: ...
    def expect(
        self, name: ClusterName, run_id: RunId, idle_timeout_s: float
    ) -> AbstractContextManager[asyncio.Event]: ...
    async def ready(self, spec: ClusterSpec) -> Found: ...


class Caps(Protocol):
    def ahead(self, spec: ClusterSpec, run_id: RunId) -> AbstractContextManager[bool]: ...


@dataclass(frozen=True, slots=True)
class Ahead:
    """How far ahead to look (`within_s`), and how many clusters that nobody uses yet may be there for it."""

    within_s: float
    clusters: int
    queues: tuple[str, ...] = ()


@dataclass(slots=True)
class _Coming:
    """`plan` is None for a run that cannot be placed: its journey will say so. `keeping` ends when the journey has it."""

    due: DueRun
    plan: Placement | None
    keeping: asyncio.Task[None] | None = None
    is_making: bool = False

    @property
    def cluster(self) -> ClusterName | None:
        return self.plan.spec.name if self.plan else None

    @property
    def is_held_back(self) -> bool:
        """A cluster that was made for it and that its run has not taken yet."""
        return self.is_making and self.keeping is not None and not self.keeping.done()


@dataclass(slots=True)
class Prewarm:
    """`held` are the runs whose journeys are under way."""

    api: Api
    clusters: Clusters
    caps: Caps
    policy: Policy
    ahead: Ahead
    held: Callable[[], frozenset[RunId]]
    moved: Callable[[], None] = lambda: None
    now: Callable[[], datetime] = utc_now
    _room: Wake = field(default_factory=Wake)
    _coming: dict[RunId, _Coming] = field(default_factory=dict)
    _is_failing: bool = False

    async def run(self) -> None:
        """Look ahead, without end."""
        async with asyncio.TaskGroup() as keeping:
            while True:
                self.moved()
                await self._look()
                until = asyncio.get_running_loop().time() + _ASK_EVERY_S
                while (left_s := until - asyncio.get_running_loop().time()) > 0:
                    self._drop_over()
                    self._begin(keeping)
                    await self._room.wait(min(left_s, self._next_s()))

    # What comes

    async def _look(self) -> None:
        asked_at = self.now()
        before = asked_at + timedelta(seconds=self.ahead.within_s + _ASK_EVERY_S)
        try:
            runs = await self.api.due(limit=_PAGE, before=before, after=asked_at, queues=self.ahead.queues)
            for run in runs:
                await self._note(run)
        except FlowgroupError as exc:  # asked again soon; what is kept stays
            said = log.get().debug if self._is_failing else log.get().warning
            said("coming_runs_not_asked", reason=str(exc))
            self._is_failing = True
            return
        self._is_failing = False
        self._gone(asked_at, {run.id for run in runs})

    async def _note(self, run: DueRun) -> None:
        known = self._coming.get(run.id)
        if known and known.due.due_at == run.due_at:
            return
        if known:
            self._end(known)
        self._coming[run.id] = _Coming(run, await self._plan(run))

    async def _plan(self, run: DueRun) -> Placement | None:
        try:
            return await planned(self.api, run, self.policy)
        except Permanent:
            return None

    def _gone(self, asked_at: datetime, told: set[RunId]) -> None:
        """Cancelled, deleted, or taken by another daemon. Those whose time has come are not asked for any more."""
        for run_id, coming in list(self._coming.items()):
            if run_id not in told | self.held() and coming.due.due_at > asked_at:
                self._end(coming)

    # What is kept

    def _begin(self, keeping: asyncio.TaskGroup) -> None:
        """Keep what is there, and make what is not there as soon as its time to boot has come."""
        held = self.held()
        for coming in sorted(self._coming.values(), key=lambda one: one.due.due_at):
            if coming.keeping or coming.plan is None or coming.due.id in held or not self._is_near(coming):
                continue
            coming.is_making = coming.cluster not in self.clusters.names()
            if not self._has_room(coming.due, coming.plan):  # asked again in some seconds
                continue
            coming.keeping = keeping.create_task(self._keep(coming.due, coming.plan), name=f"prewarm {coming.due.id}")

    def _is_near(self, coming: _Coming) -> bool:
        left_s = self._left_s(coming)
        if left_s <= 0.0:  # its journey has it, or has had it: nothing is made for a run that may be over
            return False
        if coming.cluster in self.clusters.names():
            return left_s <= self.ahead.within_s
        making = {one.cluster for one in self._coming.values() if one.is_held_back}
        has_room = coming.cluster in making or len(making) < self.ahead.clusters
        return has_room and left_s <= self._lead_s(coming)

    def _has_room(self, due: DueRun, plan: Placement) -> bool:
        with self.caps.ahead(plan.spec, due.id) as has_room:
            return has_room

    async def _keep(self, due: DueRun, plan: Placement) -> None:
        with self.caps.ahead(plan.spec, due.id) as has_room:
            if has_room:
                await self._kept(due, plan)

    async def _kept(self, due: DueRun, plan: Placement) -> None:
        name = plan.spec.name
        with self.clusters.expect(name, due.id, plan.idle_timeout_s) as taken:
            if taken.is_set():
                return
            if name not in self.clusters.names():
                log.get().info("cluster_prewarm", cluster=name, run=due.id, due_at=due.due_at.isoformat())
            try:
                await self.clusters.ready(plan.spec)
            except FlowgroupError as exc:  # the journey tries again, and says it in the run's state
                log.get().warning("cluster_not_prewarmed", cluster=name, run=due.id, reason=str(exc))
                return
            await taken.wait()
            self._room.ring()

    def _drop_over(self) -> None:
        for coming in list(self._coming.values()):
            if self._left_s(coming) < -_KEPT_AFTER_S:
                self._end(coming)

    def _end(self, coming: _Coming) -> None:
        del self._coming[coming.due.id]
        if coming.keeping:
            coming.keeping.cancel()

    # When

    def _left_s(self, coming: _Coming) -> float:
        return (coming.due.due_at - self.now()).total_seconds()

    def _lead_s(self, coming: _Coming) -> float:
        slowest_s = self.clusters.slowest_boot_s(coming.plan.spec) if coming.plan else None
        return lead_s(slowest_s, self.ahead.within_s)

    def _next_s(self) -> float:
        """Until the next one's time to boot has come."""
        waits = [self._left_s(one) - self._lead_s(one) for one in self._coming.values() if not one.keeping]
        return min([_ASK_EVERY_S, *(wait_s for wait_s in waits if wait_s > 0.0)])


def lead_s(slowest_boot_s: float | None, within_s: float) -> float:
    """How long before its run a cluster is made: by the slowest of late, with a margin; all that is allowed at first."""
    if slowest_boot_s is None:
        return within_s
    return min(within_s, _BOOT_FACTOR * slowest_boot_s + _BOOT_MARGIN_S)
