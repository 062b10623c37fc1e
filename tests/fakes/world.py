"""
Everything around a journey but Prefect's API, in one object with a memory. Each stage can be told to fail or to hang.

The API is the fake one, through the real client and the real teller.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx

from flowgroup.daemon.again import Again
from flowgroup.daemon.cancel import Asked, Cancels
from flowgroup.daemon.caps import Caps, Limits
from flowgroup.daemon.claims import Claims
from flowgroup.daemon.journey import Journeys
from flowgroup.daemon.placement import Policy
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.tell import Teller
from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.errors import Transient
from flowgroup.model.clusters import Takes
from flowgroup.model.ids import AttemptId, ClusterName, RunId
from flowgroup.model.runs import ClaimedRun, Outcome, Placement, Reported, SentRun
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import PrefectSettings
from tests.fakes.prefect_api import FakePrefect

OWNER = "pool/this daemon"
_NO_LIMITS = Limits()


@dataclass
class World:
    """`fail_at` and `hang_at` name a stage (`sent`, `watched`, `closed`); `outcome` is what the watch says."""

    fake: FakePrefect = field(default_factory=FakePrefect)
    fail_at: str | None = None
    hang_at: str | None = None
    waits_for: str | None = None
    trouble: Exception = field(default_factory=lambda: Transient("it is down"))
    failures: int = 1_000_000
    outcome: Outcome = field(default_factory=Reported)
    is_busy: bool = False
    trail: list[str] = field(default_factory=list)
    leases: set[tuple[ClusterName, RunId]] = field(default_factory=set)
    turns: set[RunId] = field(default_factory=set)
    given: set[AttemptId] = field(default_factory=set)
    closed: list[AttemptId] = field(default_factory=list)
    forgotten: list[AttemptId] = field(default_factory=list)

    async def step(self, name: str) -> None:
        self.trail.append(name)
        if self.hang_at == name:
            await asyncio.Event().wait()
        await asyncio.sleep(1)
        if self.fail_at == name and self.failures > 0:
            self.failures -= 1
            raise self.trouble

    # Clusters
    @contextmanager
    def turn(self, spec: ClusterSpec | None, run_id: RunId) -> Iterator[bool]:
        if self.is_busy:
            yield False
            return
        self.turns.add(run_id)
        try:
            yield True
        finally:
            self.turns.remove(run_id)

    @contextmanager
    def lease(self, name: ClusterName, run_id: RunId, idle_timeout_s: float | None = None) -> Iterator[None]:
        self.leases.add((name, run_id))
        try:
            yield
        finally:
            self.leases.remove((name, run_id))

    def is_ready(self, name: ClusterName) -> bool:
        return bool(self.given)

    async def why_waiting(self, name: ClusterName) -> str | None:
        return self.waits_for

    # Caps: there is nothing but what runs hold
    def specs(self) -> dict[ClusterName, ClusterSpec]:
        return {}

    def unneeded(self) -> list[ClusterName]:
        return []

    def give_up(self, name: ClusterName) -> None: ...

    def takes(self, spec: ClusterSpec) -> Takes:
        return Takes(pods=1 + spec.workers)

    # Sender
    async def sent(self, run: ClaimedRun, plan: Placement) -> SentRun:
        await self.step("sent")
        self.given.add(run.attempt)
        return SentRun(id=run.id, attempt=run.attempt, cluster=plan.spec.name, lease=run.lease)

    # Watch: the "driver" ends a run that is to be cancelled after a second
    async def watched(self, sent: SentRun, *, asked: Asked, on_running: Callable[[], None]) -> Outcome:
        from flowgroup.model.runs import Cancelled

        self.trail.append("watched")
        on_running()
        if self.hang_at == "watched":
            await asked.cancel.wait()
            await asyncio.sleep(1)
            return Cancelled("asked to end")
        await self.step("watched")
        return self.outcome

    # Attempts
    async def close(self, attempt: AttemptId) -> None:
        await self.step("closed")
        self.closed.append(attempt)

    # Drivers
    def was_given(self, cluster: ClusterName, attempt: AttemptId) -> bool:
        return attempt in self.given

    def forget(self, cluster: ClusterName, attempt: AttemptId) -> None:
        self.forgotten.append(attempt)


class _Watch:
    def __init__(self, world: World) -> None:
        self.outcome = world.watched


@dataclass
class Line:
    world: World
    api: Prefect
    slots: Slots
    cancels: Cancels
    journeys: Journeys


@asynccontextmanager
async def line(
    world: World, *, slots: int = 3, cluster_timeout_s: float = 60.0, retries: int = 3, limits: Limits = _NO_LIMITS
) -> AsyncIterator[Line]:
    """A journey's whole line in this world."""
    settings = PrefectSettings(api_url="http://prefect.test/api")
    async with prefect(settings, "pool", transport=httpx.ASGITransport(world.fake)) as api:
        await api.ensure_pool()
        held, cancels = Slots(slots), Cancels()
        journeys = Journeys(
            slots=held,
            caps=Caps(limits, world, world.takes),
            claims=Claims(api),
            api=api,
            clusters=world,
            sender=world,
            watch=_Watch(world),
            attempts=world,
            drivers=world,
            teller=Teller(api, Again(api, retries)),
            cancels=cancels,
            policy=Policy("pool"),
            owner=OWNER,
            cluster_timeout_s=cluster_timeout_s,
        )
        yield Line(world, api, held, cancels, journeys)
