"""How long answers are remembered, with and without an event stream. Time is virtual."""

import asyncio

import pytest

from flowgroup.edge.cached import Cached
from flowgroup.edge.prefect import Prefect
from flowgroup.model.ids import DeploymentId
from tests.fakes.prefect_api import FakePrefect

pytestmark = pytest.mark.looptime


class Source:
    def __init__(self) -> None:
        self.value, self.asked, self.takes_s = 1, 0, 0.0

    async def fetch(self, _: str) -> int:
        self.asked += 1
        value = self.value
        await asyncio.sleep(self.takes_s)
        return value


async def test_an_answer_that_was_on_its_way_when_all_was_dropped_is_not_kept() -> None:
    source = Source()
    source.takes_s = 1.0
    cached = Cached(source.fetch, ttl_s=60)
    asking = asyncio.create_task(cached.get("a"))
    await asyncio.sleep(0.5)
    source.value = 2
    cached.drop()
    assert await asking == 1
    assert await cached.get("a") == 2
    assert await cached.get("a") == 2
    assert source.asked == 2


async def test_a_failure_is_not_remembered_and_many_that_ask_share_one_answer() -> None:
    source = Source()
    source.takes_s = 1.0

    async def fails_once(key: str) -> int:
        if await source.fetch(key) and source.asked == 1:
            raise ValueError("once")
        return 7

    cached = Cached(fails_once, ttl_s=60)
    with pytest.raises(ValueError, match="once"):
        await cached.get("a")
    assert await asyncio.gather(*(cached.get("a") for _ in range(20))) == [7] * 20
    assert source.asked == 2


async def test_while_the_stream_tells_of_changes_a_lone_run_asks_for_nothing_twice(
    api: Prefect, fake: FakePrefect
) -> None:
    one, is_streamed = DeploymentId(fake.add_deployment()), True
    api.trust(lambda: is_streamed)
    await api.deployment(one)
    await api.template()
    for _ in range(4):
        await asyncio.sleep(60)
        await api.deployment(one)
        await api.template()
    assert fake.count("GET /deployments") == 1
    assert fake.count("GET /work_pools") == 1
    await asyncio.sleep(61)
    await api.deployment(one)
    assert fake.count("GET /deployments") == 2
    is_streamed = False  # what was remembered for minutes is not any more
    await asyncio.sleep(6)
    await api.deployment(one)
    assert fake.count("GET /deployments") == 3


async def test_what_was_read_shortly_after_a_change_is_read_again_soon(api: Prefect, fake: FakePrefect) -> None:
    """The server tells of a change before it has committed it."""
    one = DeploymentId(fake.add_deployment())
    api.trust(lambda: True)
    assert (await api.deployment(one)).entrypoint == "flow.py:etl"
    api.forget_cached()
    assert (await api.deployment(one)).entrypoint == "flow.py:etl"
    fake.deployments[one]["entrypoint"] = "flow.py:other"
    await asyncio.sleep(6)
    assert (await api.deployment(one)).entrypoint == "flow.py:other"
