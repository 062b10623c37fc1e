"""The levels of the schedulers become calls of the backend."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowgroup.daemon.scale import Scale
from flowgroup.daemon.view import View
from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName, FlowId
from flowgroup.model.orders import GroupLevel, Status
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup
from tests.fakes.backend import FakeBackend

pytestmark = pytest.mark.looptime
SPEC = ClusterSpec(
    flow_id=FlowId("f"),
    flow_name="my flow",
    isolation="pool",
    workers=1,
    workers_max=4,
    worker_groups=(WorkerGroup(name="gpu", count=2),),
)


class World:
    """Clusters and drivers at once: one cluster, and what its driver says."""

    def __init__(self, spec: ClusterSpec = SPEC) -> None:
        self.backend = FakeBackend(Path("/nonexistent"))
        self.spec = spec
        self._view = View(spec.name)

    def specs(self) -> dict[ClusterName, ClusterSpec]:
        return {self.spec.name: self.spec}

    def view(self, _: ClusterName) -> View:
        return self._view

    def say(self, **levels: GroupLevel) -> None:
        self._view.status = Status(ready=True, groups=levels)

    def calls(self) -> list[tuple[str, int, tuple[str, ...]]]:
        return [call[1:] for call in self.backend.scaled]


@asynccontextmanager
async def scaling(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(Scale(world.backend, world, world).run(lambda: None))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_level_is_carried_out_once_within_the_groups_numbers_and_again_now_and_then() -> None:
    world = World()
    async with scaling(world):
        await asyncio.sleep(5)
        assert world.calls() == []
        world.say(default=GroupLevel(wanted=3), gpu=GroupLevel(wanted=2), other=GroupLevel(wanted=5))
        await asyncio.sleep(5)
        assert world.calls() == [("default", 3, ())]
        world.say(default=GroupLevel(wanted=900, retired=("w-1",)))
        await asyncio.sleep(5)
        assert world.calls()[1:] == [("default", 4, ("w-1",))]
        await asyncio.sleep(40)
        assert world.calls()[2:] == [("default", 4, ("w-1",))]


async def test_what_is_not_so_yet_or_went_wrong_is_tried_again_soon() -> None:
    world = World()
    world.backend.fail["scale"] = Transient("no")
    world.say(default=GroupLevel(wanted=0))
    async with scaling(world):
        await asyncio.sleep(6)
        assert 2 <= len(world.calls()) <= 4
        world.backend.is_scaled = False
        world.say(default=GroupLevel(wanted=2))
        before = len(world.calls())
        await asyncio.sleep(10)
        assert 3 <= len(world.calls()) - before <= 6
        world.backend.is_scaled = True
        await asyncio.sleep(5)
        done = len(world.calls())
        await asyncio.sleep(15)
        assert len(world.calls()) == done


async def test_while_the_scheduler_says_nothing_nothing_is_done() -> None:
    world = World()
    world.say()
    async with scaling(world):
        await asyncio.sleep(60)
        assert world.calls() == []


async def test_clusters_whose_numbers_are_fixed_are_never_touched() -> None:
    world = World(SPEC.model_copy(update={"workers_max": None}))
    world.say(default=GroupLevel(wanted=0, retired=("w-0",)))
    async with scaling(world):
        await asyncio.sleep(60)
        assert world.calls() == []
