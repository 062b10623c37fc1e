"""What runs wait for is said: in the state of one that is Pending, in the log of one that runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from flowgroup.daemon.shortage import Shortage
from flowgroup.daemon.view import View
from flowgroup.errors import Transient
from flowgroup.model.ids import AttemptId, ClusterName, RunId
from flowgroup.model.orders import Attempt, GroupLevel, Status
from flowgroup.model.runs import DueRun
from tests.daemon.test_journey import due, one_run
from tests.fakes.world import line

pytestmark = pytest.mark.looptime
CLUSTER = ClusterName("c")


@asynccontextmanager
async def waiting(reason: str, *, for_s: float) -> AsyncIterator[tuple[Any, DueRun, asyncio.Task[float]]]:
    """The world with a run whose cluster is not ready, the run, and its journey."""
    world = one_run()
    world.hang_at, world.waits_for = "sent", reason
    async with line(world, cluster_timeout_s=for_s) as at:
        run = await due(at)
        yield world, run, asyncio.create_task(at.journeys.carry(run))


async def test_a_run_that_waits_says_why_and_says_it_anew_when_it_waits_for_something_else() -> None:
    async with waiting("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", for_s=100.0) as (
        world,
        run,
        carrying,
    ):
        await asyncio.sleep(15)
        seen = world.fake.runs[run.id]["state"]
        assert (seen["type"], seen["name"]) == ("PENDING", "InfrastructurePending")
        assert "Insufficient nvidia.com/gpu" in seen["message"]
        await asyncio.sleep(30)
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING", "PENDING"]
        world.waits_for = "the image cannot be pulled"
        await asyncio.sleep(15)
        seen = world.fake.runs[run.id]["state"]
        assert (seen["name"], seen["message"]) == ("WaitingForInfrastructure", "the image cannot be pulled")
        await carrying
        assert world.fake.states(run.id)[-1] == "SCHEDULED"  # given back, and it goes on waiting
        assert "the image cannot be pulled" in world.fake.runs[run.id]["state"]["message"]


async def test_a_run_that_is_cancelled_while_it_waits_is_not_made_pending_again() -> None:
    async with waiting("a node", for_s=50.0) as (world, run, carrying):
        await asyncio.sleep(5)
        world.fake.put_state(run.id, "CANCELLING")
        await carrying
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING", "CANCELLING", "CANCELLED"]


@dataclass
class Around:
    """API, clusters and drivers of one cluster with one run."""

    reason: str | None = "no node has a GPU"
    logs: list[str] = field(default_factory=list)
    fails: int = 0
    seen: View = field(default_factory=lambda: View(CLUSTER))

    async def write_log(self, run_id: RunId, level: str, message: str) -> None:
        if self.fails:
            self.fails -= 1
            raise Transient("no")
        self.logs.append(f"{run_id} {level} {message}")

    async def why_waiting(self, _: ClusterName) -> str | None:
        return self.reason

    def carried(self) -> list[tuple[ClusterName, Attempt]]:
        return [(CLUSTER, Attempt(run_id=RunId("run"), attempt=AttemptId("a"), phase="running"))]

    def view(self, _: ClusterName) -> View:
        return self.seen

    def say(self, wanted: int, there: int) -> None:
        self.seen.status = Status(ready=True, groups={"gpu": GroupLevel(wanted=wanted, there=there)})


async def test_a_run_whose_cluster_lacks_workers_is_told_why_once() -> None:
    around = Around()
    around.say(wanted=2, there=1)
    looking = asyncio.create_task(Shortage(around, around, around).run(lambda: None))
    await asyncio.sleep(8)
    assert around.logs == []
    around.fails = 1
    await asyncio.sleep(100)
    assert around.logs == ["run warning The cluster lacks workers: no node has a GPU"]
    around.reason = "no image"
    await asyncio.sleep(10)
    assert around.logs[1:] == ["run warning The cluster lacks workers: no image"]
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


@pytest.mark.parametrize(("wanted", "there", "reason"), [(2, 2, "x"), (0, 0, "x"), (2, 1, None)])
async def test_a_run_with_all_its_workers_or_without_a_reason_is_told_nothing(
    wanted: int, there: int, reason: str | None
) -> None:
    around = Around(reason)
    around.say(wanted, there)
    looking = asyncio.create_task(Shortage(around, around, around).run(lambda: None))
    await asyncio.sleep(100)
    assert around.logs == []
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
