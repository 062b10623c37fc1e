"""The driver's line against a daemon that is a real Unix socket, and comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flowgroup.driver.line import Line
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import AttemptId, ClusterName
from flowgroup.model.orders import Cancel, Hello, Status, encode, read_report

HELLO = Hello(cluster=ClusterName("c"), secret="s", python="3.11", prefect="3.8.8", pid=1)


@dataclass
class FakeDaemon:
    """Keeps what it heard, in order; `drop` ends every connection."""

    path: Path
    heard: list[Any] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._take, str(self.path))

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.heard.append(read_report(line))
                self.news.set()
        finally:
            writer.close()

    async def until(self, count: int, kind: type) -> None:
        async with asyncio.timeout(10):
            while len([frame for frame in self.heard if isinstance(frame, kind)]) < count:
                self.news.clear()
                await self.news.wait()


@dataclass
class Driver:
    daemon: FakeDaemon
    orders: list[Any]
    changed: asyncio.Event


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    daemon, orders, changed = FakeDaemon(tmp_path / "d.sock"), [], asyncio.Event()
    line = Line(HELLO, lambda: Status(ready=True, seals=("a seal",)), orders.append, changed)
    keeping = asyncio.create_task(line.keep(Endpoint.at(daemon.path), interval_s=60), name="keep")
    yield Driver(daemon, orders, changed)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_it_waits_for_a_daemon_and_says_hello_then_how_it_stands(driver: Driver) -> None:
    async with await driver.daemon.serve():
        await driver.daemon.until(1, Status)
        assert [type(frame) for frame in driver.daemon.heard[:2]] == [Hello, Status]
        driver.changed.set()
        await driver.daemon.until(2, Status)
        assert [frame.seals for frame in driver.daemon.heard[1:]] == [("a seal",), ()]
        for writer in driver.daemon.writers:
            writer.close()


async def test_it_comes_back_to_the_next_daemon(driver: Driver) -> None:
    async with await driver.daemon.serve():
        await driver.daemon.until(1, Status)
        for writer in driver.daemon.writers:
            writer.close()
        await driver.daemon.until(2, Hello)
        for writer in driver.daemon.writers:
            writer.close()


async def test_a_line_that_it_does_not_understand_costs_the_connection_and_no_more(driver: Driver) -> None:
    async with await driver.daemon.serve():
        await driver.daemon.until(1, Status)
        driver.daemon.writers[-1].write(b"nonsense\n")
        await driver.daemon.until(2, Hello)
        await driver.daemon.until(2, Status)
        driver.daemon.writers[-1].write(encode(Cancel(attempt=AttemptId("a"))))
        async with asyncio.timeout(10):
            while not driver.orders:
                await asyncio.sleep(0.01)
        assert driver.orders == [Cancel(attempt=AttemptId("a"))]
        for writer in driver.daemon.writers:
            writer.close()
