"""A daemon on another host that has gone without a word, or is stopped: its driver leaves it. In virtual time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flowgroup.driver.line import Line
from flowgroup.edge.lines import hang_up
from flowgroup.model.ids import AttemptId
from flowgroup.model.orders import Forget, Status, encode
from tests.driver.test_line import HELLO

pytestmark = pytest.mark.looptime
BEAT = Forget(attempts=())


async def talked_s(socket: Path, *said: Forget, is_far: bool = True) -> float:
    """For how long a driver stays with a daemon that says this, one a second, and then nothing more."""

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for frame in said:
            writer.write(encode(frame))
            await asyncio.sleep(1.0)
        await reader.read()
        hang_up(writer)

    heard: list[Any] = []
    line = Line(HELLO, lambda: Status(ready=True), heard.append, asyncio.Event())
    async with await asyncio.start_unix_server(daemon, str(socket)):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(120.0):
                await line._talk(reader, writer, 2.0, is_far=is_far)
        except TimeoutError:
            return asyncio.get_running_loop().time() - began
        finally:
            hang_up(writer)
            await asyncio.sleep(2.0)
    raise AssertionError("the daemon never hung up")


async def test_one_that_answered_and_does_not_any_more_is_left_within_ten_seconds(tmp_path: Path) -> None:
    assert 12.0 <= await talked_s(tmp_path / "d.sock", BEAT, BEAT, BEAT) <= 13.0


async def test_one_that_never_answers_is_of_a_version_that_does_not(tmp_path: Path) -> None:
    assert await talked_s(tmp_path / "d.sock", Forget(attempts=(AttemptId("a"),))) >= 119.0


async def test_on_one_machine_it_is_waited_for(tmp_path: Path) -> None:
    assert await talked_s(tmp_path / "d.sock", BEAT, is_far=False) >= 119.0
