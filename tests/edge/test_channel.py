"""Prefect's worker channel, against a websocket server in this process; Prefect's own models check what we say."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection

from flowgroup.edge.channel import Channel, Teardown, teardown_of
from flowgroup.model.ids import RunId
from flowgroup.settings import PrefectSettings
from tests.edge.test_events import served

RUN = RunId("8d7ab1c2-0000-4000-8000-000000000000")
Talk = Callable[[ServerConnection], Awaitable[None]]


def message(run: str = RUN, **more: Any) -> str:
    """As Prefect 3.8.8 sends it."""
    payload = {
        "message_id": str(uuid.uuid5(uuid.NAMESPACE_URL, run)),
        "kind": "cancelling_timeout_teardown.v1",
        "reservation_token": "the token",
        "lease_expires_at": (datetime.now(UTC) + timedelta(seconds=30)).isoformat(),
        "delivery_count": 1,
        "work_queue_id": None,
        "target": {"flow_run_id": run, "infrastructure_pid": None},
        "data": {},
        **more,
    }
    sent = {"id": str(uuid.uuid4()), "sent_at": datetime.now(UTC).isoformat()}
    return json.dumps({"type": "cleanup.message.v1", **sent, "payload": payload})


def checked(frame: str | bytes) -> dict[str, Any]:
    """A frame of ours, which Prefect's server would take."""
    from prefect.client.schemas.worker_channel import validate_worker_channel_frame

    read: dict[str, Any] = json.loads(frame)
    validate_worker_channel_frame(read)
    return read


def channel(url: str, **settings: Any) -> Channel:
    return Channel(PrefectSettings(api_url=url, **settings), "a pool", "worker", 30.0)


async def test_it_says_who_we_are_and_answers_what_is_torn_down() -> None:
    heard: list[dict[str, Any]] = []

    async def talk(socket: ServerConnection) -> None:
        assert socket.subprotocol == "prefect"
        assert socket.request is not None
        assert socket.request.path == "/api/work_pools/a%20pool/workers/connect"
        assert json.loads(await socket.recv()) == {"type": "auth", "token": "key"}
        await socket.send('{"type":"auth_success"}')
        heard.append(checked(await socket.recv()))
        for frame in ("nonsense", "[]", "[" * 100_000, '{"type":"worker.ready.v1"}', message("no uuid"), message()):
            await socket.send(frame)
        heard.extend([checked(await socket.recv()), checked(await socket.recv())])
        await socket.wait_closed()

    async with served(talk) as url, asyncio.timeout(10):
        ours = channel(url, api_key=SecretStr("key"))
        stream = ours.teardowns()
        teardown = await anext(stream)
        assert teardown.run == RUN
        await ours.renew(teardown)
        await ours.ack(teardown)
        while len(heard) < 3:
            await asyncio.sleep(0.01)
        await stream.aclose()  # type: ignore[attr-defined]
        await ours.ack(teardown)  # the channel is away: it comes again
    hello, *answers = heard
    assert hello["payload"]["worker_name"] == "worker"
    assert [answer["type"] for answer in answers] == ["cleanup.renew.v1", "cleanup.ack.v1"]
    assert {answer["payload"]["reservation_token"] for answer in answers} == {"the token"}


@pytest.mark.parametrize("answer", ['{"type":"auth_failure"}', "nonsense", "7"])
async def test_a_refused_key_is_said_once_and_tried_again(answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    tries = 0

    async def talk(socket: ServerConnection) -> None:
        nonlocal tries
        tries += 1
        await socket.recv()
        await socket.send(answer)

    async with served(talk) as url:
        listening = asyncio.ensure_future(anext(channel(url).teardowns()))
        async with asyncio.timeout(20):
            while tries < 3:
                await asyncio.sleep(0.01)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert capsys.readouterr().out.count("[info     ] worker_channel_away") == 1


def test_what_is_no_message_of_ours_is_nothing() -> None:
    assert teardown_of(message()) == Teardown(RUN, str(uuid.uuid5(uuid.NAMESPACE_URL, RUN)), "the token")
    assert teardown_of(message(reservation_token="")) is None
    assert teardown_of(message(target=None)) is None
    assert teardown_of(b"\xff") is None
