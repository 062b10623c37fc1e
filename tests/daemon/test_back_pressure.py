"""Poll, claims, caps and journeys together over the fake API: what waits holds up nobody else. Time is virtual."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from flowgroup.daemon.caps import Limits
from flowgroup.daemon.claims import Claims
from flowgroup.daemon.held import Held
from flowgroup.daemon.poll import Poll, Rhythm
from flowgroup.daemon.wake import Wake
from flowgroup.metrics import RUNS_HELD
from tests.fakes.prefect_api import FakePrefect
from tests.fakes.world import Line, World, line

pytestmark = pytest.mark.looptime
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def seconds() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Busy(World):
    """Runs take `takes_s`, and say Running and Completed as their engines would. `most` is how many there were at once."""

    takes_s: float = 10.0
    most: int = 0
    began: dict[str, float] = field(default_factory=dict)

    async def watched(self, sent, *, asked, on_running):  # type: ignore[no-untyped-def]
        self.began[sent.id] = seconds()
        self.most = max(self.most, sum(run["state"]["type"] == "PENDING" for run in self.fake.runs.values()))
        await asyncio.sleep(self.takes_s)
        self.fake.put_state(sent.id, "COMPLETED")
        return self.outcome


@asynccontextmanager
async def serving(*, slots: int = 100, limits: Limits | None = None, takes_s: float = 10.0) -> AsyncIterator[Line]:
    world = Busy(FakePrefect(now=lambda: BEGAN + timedelta(seconds=seconds())), takes_s=takes_s)
    async with line(world, slots=slots, limits=limits or Limits()) as at:
        wake = Wake()
        at.slots._on_free = wake.nudge
        claims = at.journeys.claims
        assert isinstance(claims, Claims)
        claims.on_open = wake.ring
        held = Held(at.api, claims, at.journeys.caps)  # type: ignore[arg-type]
        poll = Poll(at.api, at.journeys.carry, at.slots, wake, Rhythm(2.0, 10.0, 2.0), now=world.fake.now, held=held)
        task = asyncio.create_task(poll.run())
        try:
            yield at
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def proposals(fake: FakePrefect) -> Counter[str]:
    return Counter(call.split("/")[2] for call in fake.calls if call.endswith("set_state"))


async def test_300_runs_at_one_deployments_limit_hold_up_another_deployment_by_seconds() -> None:
    async with serving(takes_s=1000.0) as at:
        world = at.world
        assert isinstance(world, Busy)
        blocked = world.fake.add_deployment("one", concurrency_limit=1)
        for _ in range(300):
            world.fake.add_run(blocked)
        await asyncio.sleep(20)
        other = world.fake.add_run(world.fake.add_deployment("two"))
        asked_at = seconds()
        await asyncio.sleep(10)
        print(f"figure: begun {world.began[other] - asked_at:.1f} s after it was asked for, behind 300")
        assert world.began[other] - asked_at <= 5
        await asyncio.sleep(90)
        assert max(proposals(world.fake).values()) <= 1 + 120 / 30
        assert proposals(world.fake).total() <= 40


async def test_runs_that_a_groups_cap_holds_are_not_claimed_and_hide_nobody_and_say_why() -> None:
    async with serving(limits=Limits(group={"runs": 2}), takes_s=1000.0) as at:
        world = at.world
        assert isinstance(world, Busy)
        one = world.fake.add_deployment("one")
        for number in range(250):
            world.fake.add_run(one, in_s=number / 1000)
        await asyncio.sleep(20)
        other = world.fake.add_run(world.fake.add_deployment("two"))
        asked_at = seconds()
        await asyncio.sleep(10)
        assert world.began[other] - asked_at <= 5
        assert len(world.began) == 3
        assert Counter(run["state"]["type"] for run in world.fake.runs.values()) == {"SCHEDULED": 248, "PENDING": 3}
        assert RUNS_HELD.labels("group.runs")._value.get() >= 190
        said = [entry["message"] for entry in world.fake.logs]
        assert set(said) == {
            "The run waits: its flow has as many runs as the agent's settings allow (FLOWGROUP_GROUP_CAP_RUNS)."
        }
        assert len({entry["flow_run_id"] for entry in world.fake.logs}) == len(said)


async def test_as_runs_end_those_that_wait_are_started_and_a_cap_is_never_passed() -> None:
    async with serving(limits=Limits(group={"runs": 5}), takes_s=3.0) as at:
        world = at.world
        assert isinstance(world, Busy)
        for flow in ("one", "two"):
            deployment = world.fake.add_deployment(flow)
            for _ in range(20):
                world.fake.add_run(deployment)
        while len(world.began) < 40 and seconds() < 200:
            await asyncio.sleep(0.5)
        assert len(world.began) == 40
        assert world.most <= 10


async def test_with_few_slots_each_flow_has_its_share() -> None:
    async with serving(slots=4, takes_s=5.0) as at:
        world = at.world
        assert isinstance(world, Busy)
        many = world.fake.add_deployment("many")
        for _ in range(60):
            world.fake.add_run(many)
        await asyncio.sleep(10)
        few = [world.fake.add_run(world.fake.add_deployment("few")) for _ in range(2)]
        asked_at = seconds()
        await asyncio.sleep(40)
        assert all(world.began[run] - asked_at <= 15 for run in few)
        assert world.most <= 4


async def test_a_late_run_is_skipped_with_the_reason_and_never_sent() -> None:
    async with serving() as at:
        world = at.world
        assert isinstance(world, Busy)
        deployment = world.fake.add_deployment(job_variables={"skip_if_late_s": 1800})
        late, fresh = (
            world.fake.add_run(
                deployment,
                in_s=-since_s,
                expected_start_time=(datetime.now(UTC) - timedelta(seconds=since_s)).isoformat(),
            )
            for since_s in (3600.0, 0.0)
        )
        await asyncio.sleep(10)
        state = world.fake.runs[late]["state"]
        assert (state["type"], state["name"]) == ("CANCELLED", "Skipped")
        assert "more than 1800 s late (skip_if_late_s)" in state["message"]
        assert set(world.began) == {fresh}
