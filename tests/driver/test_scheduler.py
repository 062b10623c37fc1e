"""Waiting for a Dask scheduler, and noticing that it has gone; real sockets stand in for it."""

import asyncio
import json
from pathlib import Path

import pytest

from flowgroup.driver import scheduler
from flowgroup.errors import Refused
from tests.servers import free_port


async def _take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_given_address_is_waited_for_until_it_answers() -> None:
    port = free_port()
    waiting = asyncio.create_task(scheduler.answering(f"tcp://127.0.0.1:{port}"), name="wait")
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    async with await asyncio.start_server(_take, "127.0.0.1", port), asyncio.timeout(10):
        await waiting


@pytest.mark.parametrize("address", ["", "127.0.0.1:8786", "tls://x:8786", "tcp://x", "tcp://:8786", "tcp://x:y"])
async def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="--scheduler"):
        await scheduler.answering(address)


async def test_an_address_that_is_written_is_read_once_it_answers(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    waiting = asyncio.create_task(scheduler.written(file), name="wait")
    async with await asyncio.start_server(_take, "127.0.0.1", 0) as server, asyncio.timeout(10):
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        file.write_text("{")
        file.write_text(json.dumps({"address": address}))
        assert await waiting == address


async def test_one_that_is_away_for_longer_than_it_may_has_gone() -> None:
    async with await asyncio.start_server(_take, "127.0.0.1", 0) as server:
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        watching = asyncio.create_task(scheduler.gone(address, after_s=0.5), name="watch")
        done, _ = await asyncio.wait([watching], timeout=1.2)
        assert not done
    async with asyncio.timeout(10):
        await watching


async def test_a_hiccup_of_the_network_is_none() -> None:
    port = free_port()
    watching = asyncio.create_task(scheduler.gone(f"tcp://127.0.0.1:{port}", after_s=3.0), name="watch")
    done, _ = await asyncio.wait([watching], timeout=1.2)
    assert not done
    async with await asyncio.start_server(_take, "127.0.0.1", port):
        done, _ = await asyncio.wait([watching], timeout=3.0)
        assert not done
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
