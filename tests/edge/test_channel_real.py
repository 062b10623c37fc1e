"""Prefect's own server gives a run up, asks for its teardown, and takes our word that it is done."""

import asyncio
from pathlib import Path

import pytest

from flowgroup.edge.channel import Channel
from flowgroup.edge.prefect import prefect
from flowgroup.settings import PrefectSettings
from tests.edge.test_prefect_real import Server, again
from tests.servers import prefect_server

pytestmark = pytest.mark.real
# So long a run may be Cancelling, and so long a message is ours; five minutes and half a minute usually.
_SOON = {
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "1",
    "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_LEASE_SECONDS": "3",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "1",
}


async def test_a_run_that_the_server_gave_up_is_torn_down_once_it_is_said_to_be_done(tmp_path: Path) -> None:
    with prefect_server(tmp_path, env=_SOON) as url:
        settings = PrefectSettings(api_url=url)
        async with prefect(settings, "pool") as api:
            await again(api.ensure_pool)
            server = Server(api, settings)
            run = await server.run(await server.deployment())
            await server.claimed(run)
            channel = Channel(settings, "pool", "our worker", 30.0)
            teardowns = channel.teardowns()
            waiting = asyncio.ensure_future(anext(teardowns))
            await server.put(run, "CANCELLING")
            first = await asyncio.wait_for(waiting, 60)
            assert first.run == run
            assert await server.state(run) == "CANCELLED"
            second = await asyncio.wait_for(anext(teardowns), 30)  # nobody said that it is done
            assert (second.run, second.id) == (first.run, first.id)
            assert second.token != first.token
            await channel.renew(second)
            await channel.ack(second)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(teardowns), 8)
            (worker,) = await server.call("POST", "/work_pools/pool/workers/filter", {})
            assert worker["name"] == "our worker"
