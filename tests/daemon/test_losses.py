"""Drivers ask why a worker ended, and get the backend's answer, once for each question."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowgroup.daemon.losses import Answers
from flowgroup.daemon.view import View
from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import Losses, Status, read_order
from tests.fakes.backend import FakeBackend

pytestmark = pytest.mark.looptime
CLUSTER = ClusterName("c")


class Line:
    """A driver's line that keeps what it is told."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.told: list[Losses] = []

    def write(self, frame: Losses) -> None:
        self.told.append(frame)


class World:
    """Clusters and drivers at once: one cluster and its driver."""

    def __init__(self) -> None:
        self.backend = FakeBackend(Path("/nonexistent"), lost={"w": "it took more memory [oom-container]"})
        self._view = View(CLUSTER)
        self.line = self.dial(1)

    def dial(self, pid: int) -> Line:
        self.line = Line(pid)
        self._view.line = self.line  # type: ignore[assignment]
        return self.line

    def names(self) -> list[ClusterName]:
        return [CLUSTER]

    def view(self, _: ClusterName) -> View:
        return self._view

    def ask(self, asks: int) -> None:
        self._view.status = Status(ready=True, asks=asks)


@asynccontextmanager
async def answering(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(Answers(world.backend, world, world).run(lambda: None))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_question_is_answered_once_and_a_driver_that_asks_nothing_costs_nothing() -> None:
    world = World()
    world.backend.fail["losses"] = Transient("nobody may ask")
    async with answering(world):
        world.ask(0)
        await asyncio.sleep(30)
        assert "losses" in world.backend.fail
        del world.backend.fail["losses"]
        world.ask(1)
        await asyncio.sleep(1)
        assert [(one.why, one.asks) for one in world.line.told] == [({"w": "it took more memory [oom-container]"}, 1)]
        await asyncio.sleep(30)
        assert len(world.line.told) == 1
        world.ask(2)
        await asyncio.sleep(1)
        assert [one.asks for one in world.line.told] == [1, 2]


async def test_what_kubernetes_does_not_say_is_answered_as_nothing() -> None:
    world = World()
    world.backend.fail["losses"] = Transient("away")
    async with answering(world):
        world.ask(1)
        await asyncio.sleep(1)
        assert [one.why for one in world.line.told] == [{}]


async def test_another_driver_of_the_cluster_is_answered_though_it_has_asked_as_often() -> None:
    world = World()
    async with answering(world):
        world.ask(1)
        await asyncio.sleep(1)
        line = world.dial(2)
        await asyncio.sleep(1)
        assert len(line.told) == 1


def test_an_answer_survives_the_line() -> None:
    frame = Losses(why={"scheduler": "it ended"}, asks=3)
    assert read_order(frame.model_dump_json().encode()) == frame
