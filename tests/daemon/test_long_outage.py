"""Prefect's API is away for an hour, in virtual time: what the daemon had to say or to start comes afterwards."""

import asyncio

import pytest

from flowgroup.model.runs import Crashed
from tests.daemon.test_journey import due, nothing_is_kept, one_run
from tests.daemon.test_poll import polling, seconds
from tests.fakes.world import line

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("how", [500, 503, 429, 401, 403])
async def test_a_run_that_ends_in_an_hour_without_the_api_is_told_afterwards(how: int | str) -> None:
    world = one_run()
    world.outcome = Crashed("it ended")
    async with line(world) as at:
        run = await due(at)
        carrying = asyncio.create_task(at.journeys.carry(run))
        while "watched" not in world.trail:
            await asyncio.sleep(0.1)
        world.fake.fail("", how, times=1_000_000)
        asyncio.get_running_loop().call_later(3600, world.fake.faults.clear)
        await carrying
        assert asyncio.get_running_loop().time() > 3600
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING", "CRASHED"]
        nothing_is_kept(at)


@pytest.mark.parametrize("how", [500, 503, 429, 401, 404, "html", "lost"])
async def test_after_an_hour_without_the_api_what_became_due_starts_within_half_a_minute(how: int | str) -> None:
    async with polling() as at:
        at.fake.fail("get_scheduled_flow_runs", how, times=1_000_000)
        await asyncio.sleep(1800)
        at.fake.add_run(at.fake.add_deployment())
        await asyncio.sleep(1800)
        assert at.started == []
        assert at.fake.count("get_scheduled_flow_runs") < 600
        at.fake.faults.clear()
        healed = seconds()
        while not at.started:
            await asyncio.sleep(1)
        assert seconds() - healed <= 31
