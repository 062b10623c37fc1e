"""What the desk hears of the groups; a real socket stands in for the scheduler."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowgroup.driver import levels
from flowgroup.driver.levels import Levels, first_worker, follow
from flowgroup.model.orders import GroupLevel
from tests.servers import free_port


class Told:
    """A scheduler that tells what a test says, to whoever dials."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._last = b"{}\n"

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(self._last)

    def tell(self, line: object) -> None:
        self._last = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        for writer in self._writers:
            writer.write(self._last)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()


@asynccontextmanager
async def telling() -> AsyncIterator[Told]:
    told = Told()
    async with await asyncio.start_server(told.serve, "127.0.0.1", 0) as server:
        told.port = server.sockets[0].getsockname()[1]
        yield told
        told.hang_up()


@asynccontextmanager
async def following(at: str) -> AsyncIterator[list[Levels]]:
    heard: list[Levels] = []
    task = asyncio.create_task(follow(at, heard.append))
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(heard: list[Levels], last: Levels) -> None:
    async with asyncio.timeout(10):
        while not heard or heard[-1] != last:
            await asyncio.sleep(0.02)


async def test_each_level_is_heard_and_none_while_nobody_tells_it(tmp_path: Path) -> None:
    file = tmp_path / "levels"
    async with telling() as told, following(str(file)) as heard:
        file.write_text(str(told.port))
        told.tell({"gpu": {"wanted": 2, "there": 1, "retired": ["a"]}})
        await until(heard, {"gpu": GroupLevel(wanted=2, there=1, retired=("a",))})
        told.hang_up()
        await until(heard, {})
        await until(heard, {"gpu": GroupLevel(wanted=2, there=1, retired=("a",))})
        told.tell(b"nonsense\n")
        await until(heard, {})
        told.tell({"gpu": {"wanted": 0}})
        await until(heard, {"gpu": GroupLevel(wanted=0)})


async def test_the_first_worker_of_any_group_is_waited_for() -> None:
    async with telling() as told:
        waiting = asyncio.create_task(first_worker(f"tcp://127.0.0.1:{told.port}"))
        told.tell({"default": {"wanted": 2}, "gpu": {"wanted": 1}})
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        told.tell({"default": {"wanted": 2}, "gpu": {"wanted": 1, "there": 1}})
        async with asyncio.timeout(10):
            await waiting


async def test_a_worker_that_nobody_can_see_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_SILENT_S", 0.3)
    async with asyncio.timeout(10):
        await first_worker(f"tcp://127.0.0.1:{free_port()}")
