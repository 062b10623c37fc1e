"""What operators ask of clusters, carried out. Drivers are views that the test moves; time is virtual."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flowgroup.daemon.asked import follow
from flowgroup.daemon.clusters import Clusters
from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.reap import reap
from flowgroup.daemon.scale import Scale
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.standing import Standing
from flowgroup.daemon.wake import Wake
from flowgroup.errors import Transient
from flowgroup.model.clusters import Ask
from flowgroup.model.ids import ClusterName, FlowId, RunId
from flowgroup.model.orders import Attempt, GroupLevel, Status
from flowgroup.model.spec import ClusterSpec
from tests.fakes.boots import Boots, connect

pytestmark = pytest.mark.looptime
ONE, TWO = RunId("one"), RunId("two")
SPEC = ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool", workers=1, workers_max=4)


class World:
    def __init__(self) -> None:
        self.drivers, self.turns = Drivers(), 0
        self.backend = Boots(self.drivers)
        self.clusters = Clusters(self.backend, self.drivers, idle_timeout_s=60, on_turn=self._on_turn)
        self.scale = Scale(self.backend, self.clusters, self.drivers)
        self.asked: dict[ClusterName, Ask] = {}
        self.trouble: Transient | None = None
        self.now = 1000.0

    def _on_turn(self) -> None:
        self.turns += 1

    async def asks(self) -> dict[ClusterName, Ask]:
        if self.trouble:
            raise self.trouble
        return {name: ask for name, ask in self.asked.items() if name in self.backend.clusters}

    def standing(self, stuck: list[str] | None = None) -> dict[str, Any]:
        return Standing(
            pool="p",
            worker="w",
            backend="local",
            clusters=self.clusters,
            drivers=self.drivers,
            slots=Slots(3),
            scale=self.scale,
            is_streamed=lambda: True,
            stuck=lambda: stuck or [],
        ).told()

    def told(self) -> dict[str, Any]:
        """Of the one cluster that there is."""
        (cluster,) = self.standing()["clusters"]
        return dict(cluster)


@asynccontextmanager
async def daemon(world: World) -> AsyncIterator[None]:
    loops = [
        asyncio.create_task(follow(world, world.clusters, world.scale, lambda: None, now=lambda: world.now)),
        asyncio.create_task(reap(world.clusters, Wake(), lambda: None)),
        asyncio.create_task(world.scale.run(lambda: None)),
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def turn(world: World, run: RunId) -> bool:
    with world.clusters.turn(SPEC, run) as is_ours:
        return is_ours


async def test_a_cluster_that_is_reset_ends_its_run_takes_no_other_and_the_next_one_gets_a_new_one() -> None:
    world = World()
    async with daemon(world):
        with world.clusters.lease(SPEC.name, ONE, 60):
            await world.clusters.ready(SPEC)
            world.asked[SPEC.name] = Ask(reset=True)
            await asyncio.sleep(5)
            assert not turn(world, TWO)
            assert world.told()["why"] == "reset: 1 run to end first"
            await asyncio.sleep(300)
            assert world.backend.deleted == []
            before = world.turns
        await asyncio.sleep(5)
        assert world.backend.deleted == [SPEC.name]
        assert world.turns > before, "whoever waited for the drained cluster was not woken"
        assert turn(world, TWO)
        world.asked.clear()  # it was written on the cluster, and is gone with it
        await world.clusters.ready(SPEC)
        await asyncio.sleep(5)
        assert turn(world, TWO)
    assert world.backend.made == [SPEC.name] * 2


async def test_an_idle_cluster_that_is_reset_goes_at_once_even_if_a_run_is_expected() -> None:
    world = World()
    async with daemon(world):
        await world.clusters.ready(SPEC)
        with world.clusters.expect(SPEC.name, ONE, 60):
            world.asked[SPEC.name] = Ask(reset=True)
            await asyncio.sleep(8)
            assert world.backend.deleted == [SPEC.name]


async def test_an_ask_that_is_taken_back_leaves_the_cluster_in_use() -> None:
    world = World()
    async with daemon(world):
        with world.clusters.lease(SPEC.name, ONE, 60):
            await world.clusters.ready(SPEC)
            world.asked[SPEC.name] = Ask(reset=True)
            await asyncio.sleep(5)
            assert not turn(world, TWO)
            world.trouble = Transient("Kubernetes does not answer")
            await asyncio.sleep(5)
            assert not turn(world, TWO), "what cannot be seen was taken for taken back"
            world.trouble = None
            world.asked.clear()
            await asyncio.sleep(5)
            assert turn(world, TWO)
            assert world.told()["why"] == "1 run"


def say(world: World, wanted: int, there: int) -> None:
    connect(
        world.drivers.view(SPEC.name), Status(ready=True, groups={"default": GroupLevel(wanted=wanted, there=there)})
    )


async def test_a_group_gets_as_many_workers_as_are_asked_for_within_its_numbers_until_they_are_there() -> None:
    world = World()
    async with daemon(world):
        with world.clusters.lease(SPEC.name, ONE, 60):
            await world.clusters.ready(SPEC)
            say(world, wanted=1, there=1)
            await asyncio.sleep(3)
            world.asked[SPEC.name] = Ask(scale={"default": 9}, until=world.now + 600)
            await asyncio.sleep(5)
            assert world.backend.scaled[-1] == (SPEC.name, "default", 4)
            group = world.told()["groups"]
            assert isinstance(group, list)
            assert group[0]["asked"] == 9


async def test_what_was_asked_for_and_reached_is_the_schedulers_again_and_so_is_what_never_came() -> None:
    world = World()
    async with daemon(world):
        with world.clusters.lease(SPEC.name, ONE, 60):
            await world.clusters.ready(SPEC)
            say(world, wanted=1, there=1)
            world.asked[SPEC.name] = Ask(scale={"default": 3}, until=world.now + 600)
            await asyncio.sleep(5)
            assert world.backend.scaled[-1][2] == 3
            say(world, wanted=1, there=3)
            assert world.told()["workers"] == 3
            await asyncio.sleep(5)
            say(world, wanted=1, there=1)
            await asyncio.sleep(5)
            assert world.backend.scaled[-1][2] == 1
            world.asked[SPEC.name] = Ask(scale={"default": 3}, until=world.now + 700)  # asked again
            await asyncio.sleep(5)
            assert world.backend.scaled[-1][2] == 3
            world.now += 701
            await asyncio.sleep(5)
            assert world.backend.scaled[-1][2] == 1


async def test_what_is_told_has_runs_and_reasons_and_no_value_of_an_environment() -> None:
    world = World()
    spec = SPEC.model_copy(update={"env": {"PASSWORD": "hunter2"}, "secrets": {"A": "hunter3"}})
    with world.clusters.lease(spec.name, ONE, 60):
        await world.clusters.ready(spec)
        view = world.drivers.view(spec.name)
        view.attempts = {"a": Attempt(run_id=ONE, attempt="a", phase="running")}  # type: ignore[dict-item]
        standing = world.standing(stuck=["poll"])
    assert standing["runs"] == [{"id": "one", "cluster": spec.name, "attempt": "a", "phase": "running"}]
    assert standing["stuck"] == ["poll"]
    assert "hunter" not in str(standing)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"scale": {"default": -1}}', '{"reset": "perhaps"}', None])
def test_what_cannot_be_read_asks_for_nothing(text: str | None) -> None:
    assert Ask.read(text) == Ask()
