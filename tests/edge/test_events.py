"""The event stream, against a real websocket server in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve

from flowgroup.edge.events import Events, Notice
from flowgroup.settings import PrefectSettings

RUN = "8d7ab1c2-0000-4000-8000-000000000000"


@asynccontextmanager
async def served(talk: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    async with serve(talk, "127.0.0.1", 0, subprotocols=["prefect"]) as server:  # type: ignore[list-item]
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/api"


def event(name: str, resource: str = f"prefect.flow-run.{RUN}") -> str:
    return json.dumps({"type": "event", "event": {"event": name, "resource": {"prefect.resource.id": resource}}})


async def first(events: Events, count: int) -> list[Notice]:
    got: list[Notice] = []
    stream = events.notices()
    async with asyncio.timeout(10):
        async for notice in stream:
            got.append(notice)
            if len(got) == count:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    return got


async def test_it_asks_for_the_pools_events_and_says_what_to_look_at() -> None:
    heard: list[Any] = []

    async def talk(socket: ServerConnection) -> None:
        assert socket.subprotocol == "prefect"
        assert socket.request is not None
        assert socket.request.path == "/api/events/out"
        heard.append(json.loads(await socket.recv()))
        await socket.send('{"type":"auth_success"}')
        heard.append(json.loads(await socket.recv()))
        for frame in (
            event("prefect.flow-run.Scheduled"),
            "not json",
            "[]",
            "[" * 100_000,
            '{"type":"event","event":7}',
            event("prefect.flow-run.Cancelling"),
            event("prefect.flow-run.Suspended"),
            event("prefect.deployment.updated", "prefect.deployment.x"),
        ):
            await socket.send(frame)
        await socket.wait_closed()

    async with served(talk) as url:
        events = Events(PrefectSettings(api_url=url, api_key=SecretStr("key")), "pool-id")
        got = await first(events, 5)
    assert got == [
        Notice("connected"),
        Notice("due", RUN),  # type: ignore[arg-type]
        Notice("cancelling", RUN),  # type: ignore[arg-type]
        Notice("suspended", RUN),  # type: ignore[arg-type]
        Notice("changed"),
    ]
    assert heard[0] == {"type": "auth", "token": "key"}
    assert heard[1]["backfill"] is False
    assert heard[1]["filter"]["any_resource"] == {"id": ["prefect.work-pool.pool-id"]}
    assert not events.is_connected


async def test_it_connects_again_and_says_so_because_something_may_have_been_missed() -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"type":"auth_success"}')
        await socket.recv()

    async with served(talk) as url:
        got = await first(Events(PrefectSettings(api_url=url), "p"), 3)
    assert got == [Notice("connected")] * 3


@pytest.mark.parametrize("answer", ['{"type":"auth_failure"}', "nonsense", "7"])
async def test_a_refused_key_is_said_once_and_tried_again(answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    tries = 0

    async def talk(socket: ServerConnection) -> None:
        nonlocal tries
        tries += 1
        await socket.recv()
        await socket.send(answer)

    async with served(talk) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await first(Events(PrefectSettings(api_url=url), "p"), 1)
    assert tries >= 2
    assert capsys.readouterr().out.count("[warning  ] event_stream_away") == 1


async def test_without_anybody_there_it_only_waits() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await first(Events(PrefectSettings(api_url="http://127.0.0.1:9/api"), "p"), 1)


async def test_a_pool_that_was_made_again_is_followed_at_once() -> None:
    asked: list[str] = []

    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"type":"auth_success"}')
        asked.append(json.loads(await socket.recv())["filter"]["any_resource"]["id"][0])
        await socket.wait_closed()

    async with served(talk) as url:
        events = Events(PrefectSettings(api_url=url), "before")
        reading = asyncio.create_task(first(events, 2))
        async with asyncio.timeout(10):
            while not asked:
                await asyncio.sleep(0.01)
        events.follow("after")
        assert [notice.kind for notice in await reading] == ["connected", "connected"]
    assert asked == ["prefect.work-pool.before", "prefect.work-pool.after"]
