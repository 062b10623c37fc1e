"""How many calls go out at once."""

import asyncio

import pytest

from flowgroup.edge.pace import Pace
from flowgroup.errors import Transient

pytestmark = pytest.mark.looptime


class Server:
    """Refuses what comes while `room` calls are under way; counts what is lost and done."""

    def __init__(self, room: int) -> None:
        self.room, self.busy, self.most, self.refused = room, 0, 0, 0

    async def call(self) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(0.1)
            if self.busy > self.room:
                self.refused += 1
                raise Transient("database is locked")
        finally:
            self.busy -= 1


async def through(pace: Pace, server: Server) -> None:
    while True:
        try:
            async with pace.turn():
                return await server.call()
        except Transient:
            continue


async def test_a_server_that_likes_company_gets_it_up_to_a_bound() -> None:
    pace, server = Pace(16), Server(1000)
    await asyncio.gather(*(through(pace, server) for _ in range(500)))
    assert server.most == 16
    assert asyncio.get_running_loop().time() < 6


async def test_a_server_with_one_writer_is_asked_by_few() -> None:
    pace, server = Pace(16), Server(1)
    await asyncio.gather(*(through(pace, server) for _ in range(100)))
    assert server.most <= 4
    assert server.refused < 150


async def test_whoever_gives_up_waiting_leaves_its_turn_to_another() -> None:
    pace, server = Pace(1), Server(1)
    tasks = [asyncio.create_task(through(pace, server)) for _ in range(20)]
    await asyncio.sleep(0.05)
    for task in tasks[1::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)
    async with pace.turn():
        assert pace.width == 1
