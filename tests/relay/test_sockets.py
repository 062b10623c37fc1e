import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from flowgroup.settings import RelaySettings
from tests.fakes.upstream import Failure
from tests.relay.serving import TOKEN, Relay, an_id, relay

_BY_HEADER = {"Authorization": f"Bearer {TOKEN}"}


@asynccontextmanager
async def _child(
    on: Relay, path: str = "/api/events/in", *, token: str | None = TOKEN, headers: Any = None
) -> AsyncIterator[ClientConnection]:
    """A websocket as Prefect's client opens it, after its handshake."""
    async with unix_connect(
        str(on.socket), f"ws://relay{path}", subprotocols=[Subprotocol("prefect")], additional_headers=headers
    ) as socket:
        assert socket.subprotocol == "prefect"
        await (await socket.ping())
        await socket.send(json.dumps({"type": "auth", "token": token}))
        assert json.loads(await socket.recv()) == {"type": "auth_success"}
        yield socket


def _event(id: str) -> str:
    return json.dumps({"event": "e", "resource": {"prefect.resource.id": f"prefect.flow-run.{id}"}, "payload": {}})


def _came(on: Relay) -> list[str]:
    """The events that the API was given by calls."""
    return [
        one["resource"]["prefect.resource.id"] for seen in on.api.seen if seen.path == "/events" for one in seen.json()
    ]


def _on_disk(tmp_path: Path, query: str) -> list[Any]:
    """What a copy of the spool answers: the relay has its file for itself."""
    for name in ("", "-wal"):
        shutil.copy(tmp_path / f"relay/spool/spool.db{name}", tmp_path / f"copy.db{name}")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        return [value for (value,) in copy.execute(query)]


async def _until(is_so: Callable[[], bool], within_s: float = 15) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("token", "headers"), [(TOKEN, None), (None, _BY_HEADER), (TOKEN, _BY_HEADER)])
async def test_events_reach_the_api_with_the_real_token(tmp_path: Path, token: str | None, headers: Any) -> None:
    async with relay(tmp_path) as on, _child(on, token=token, headers=headers) as socket:
        await socket.send(_event(on.run))
        await _until(lambda: _came(on) == [f"prefect.flow-run.{on.run}"])
        assert on.api.upgrades == []
        assert on.api.last().headers["authorization"] == "Bearer the-real-token"
        assert TOKEN not in str(on.api.seen)


async def test_events_of_other_runs_are_dropped_and_the_rest_go_on(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on) as socket:
        for frame in (_event(an_id()), "not json", '{"a":1,"a":2}', _event(on.run)):
            await socket.send(frame)
        await _until(lambda: len(_came(on)) > 0)
        assert _came(on) == [f"prefect.flow-run.{on.run}"]


async def test_a_ping_is_answered_when_the_events_before_it_are_on_disk(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on) as socket:
        on.api.failure = Failure(503)
        for _ in range(20):
            await socket.send(_event(on.run))
        await (await socket.ping())
        assert _on_disk(tmp_path, "SELECT count(*) FROM events") == [20]


async def test_events_of_an_api_that_is_away_are_taken_and_wait(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(503)
        async with _child(on, headers=_BY_HEADER) as socket:
            await socket.send(_event(on.run))
            await (await socket.ping())
        on.api.failure = None
        await _until(lambda: on.api.taken != [])
        assert set(_came(on)) == {f"prefect.flow-run.{on.run}"}


async def test_events_come_out(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on, "/api/events/out") as socket:
        await socket.send('{"type": "filter", "filter": {}}')
        on.api.to_send.put_nowait('{"type": "event"}')
        assert await socket.recv() == '{"type": "event"}'
        assert on.api.frames == ['{"type": "filter", "filter": {}}']


async def test_a_close_of_the_api_is_passed_on_with_its_code(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on, "/api/events/out") as socket:
        on.api.to_send.put_nowait(None)
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1012, "service restart")


@pytest.mark.parametrize("token", ["wrong", None])
async def test_a_wrong_token_in_the_first_frame_is_refused(tmp_path: Path, token: str | None) -> None:
    async with relay(tmp_path) as on:
        with pytest.raises(ConnectionClosed) as ended:
            async with _child(on, token=token):
                raise AssertionError("it was let in")
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1008
        assert on.api.upgrades == []


async def test_a_wrong_token_in_the_upgrade_is_refused(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        with pytest.raises(InvalidStatus) as refused:
            async with _child(on, headers={"Authorization": "Bearer wrong"}):
                raise AssertionError("it was let in")
        assert refused.value.response.status_code == 401


async def test_a_closed_attempt_may_not_go_on(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on) as socket:
        await on.daemon.delete(f"/flowgroup/attempts/{on.attempt}")
        await socket.send(_event(on.run))
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1008
        await asyncio.sleep(0.2)
        assert _came(on) == []


@pytest.mark.parametrize("secrets", [{"api_url": "http://127.0.0.1:9/api"}, {"api_key": "no longer good"}])
async def test_while_the_api_is_away_the_client_is_told_to_try_again(tmp_path: Path, secrets: Any) -> None:
    """Before the answer to its ping, for otherwise Prefect's client would give up."""
    async with relay(tmp_path, secrets=secrets, settings=RelaySettings(hold_s=0.5)) as on:
        await _is_turned_away(on, "/api/events/out")


async def test_a_relay_that_was_just_started_turns_nobody_away_for_good(tmp_path: Path) -> None:
    async with relay(tmp_path, opened=False) as on:
        await _is_turned_away(on)


async def test_a_websocket_that_the_api_refuses_is_tried_again(tmp_path: Path) -> None:
    async with relay(tmp_path, upgrade_status=403) as on:
        await _is_turned_away(on, "/api/events/out")


async def _is_turned_away(on: Relay, path: str = "/api/events/in") -> None:
    async with unix_connect(
        str(on.socket),
        f"ws://relay{path}",
        subprotocols=[Subprotocol("prefect")],
        additional_headers=_BY_HEADER,
    ) as socket:
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1013


@pytest.mark.parametrize(
    "path", ["/api/logs/out", "/api/work_pools/p/workers/connect", "/api/task_runs/subscriptions/scheduled", "/x"]
)
async def test_other_websockets_are_refused(tmp_path: Path, path: str) -> None:
    async with relay(tmp_path) as on:
        with pytest.raises(InvalidStatus) as refused:
            async with _child(on, path, headers=_BY_HEADER):
                raise AssertionError("it was let in")
        assert refused.value.response.status_code == 403


@pytest.fixture
def _cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake API is Prefect Cloud's."""
    monkeypatch.setattr("flowgroup.relay.upstream._CLOUD", "http://127.0.0.1")


def _numbers(on: Relay) -> list[int]:
    return [json.loads(frame)["payload"]["number"] for frame in on.api.frames]


def _numbered(run: str, number: int) -> str:
    return json.dumps({**json.loads(_event(run)), "id": an_id(), "payload": {"number": number}})


@pytest.mark.usefixtures("_cloud")
async def test_prefect_clouds_way_in_has_no_handshake(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on) as socket:
        await socket.send(_event(on.run))
        await _until(lambda: len(on.api.frames) > 0)
        [came] = [json.loads(frame) for frame in on.api.frames]
        assert {**came, "id": None} == {**json.loads(_event(on.run)), "id": None}
        assert "sec-websocket-protocol" not in on.api.upgrades[0]
        assert on.api.upgrades[0]["authorization"] == "Bearer the-real-token"
        assert _came(on) == []


@pytest.mark.usefixtures("_cloud")
async def test_events_for_prefect_cloud_wait_on_disk_while_it_is_away(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on) as socket:
        on.api.upgrade_status = 503
        for number in range(20):
            await socket.send(_numbered(on.run, number))
        await (await socket.ping())
        await _until(lambda: len(on.api.upgrades) > 1)
        assert on.api.frames == []
        on.api.upgrade_status = None
        await _until(lambda: len(on.api.frames) >= 20)
        assert _numbers(on) == list(range(20))


@pytest.mark.usefixtures("_cloud")
async def test_a_websocket_that_prefect_cloud_has_closed_is_opened_again(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _child(on) as socket:
        for number in range(3):
            await socket.send(_numbered(on.run, number))
            await _until(lambda: number in _numbers(on))  # noqa: B023
            on.api.to_send.put_nowait(None)
        assert list(dict.fromkeys(_numbers(on))) == [0, 1, 2]
        assert len(on.api.upgrades) >= 2


@pytest.mark.usefixtures("_cloud")
@pytest.mark.parametrize("code", [1008, 1009, 1011])
async def test_an_event_that_prefect_cloud_never_takes_costs_itself_alone(tmp_path: Path, code: int) -> None:
    async with relay(tmp_path, poison=b'"number": 13', poison_code=code) as on, _child(on) as socket:
        on.api.upgrade_status = 503
        for number in range(20):
            await socket.send(_numbered(on.run, number))
        await (await socket.ping())
        on.api.upgrade_status = None
        await _until(lambda: set(_numbers(on)) == {*range(20)} - {13}, 90)
        await _until(lambda: len(_on_disk(tmp_path, "SELECT reason FROM dead")) == 1)
        assert f"the websocket was closed: {code}" in _on_disk(tmp_path, "SELECT reason FROM dead")[0]


@pytest.mark.parametrize("after", ["the upgrade", "the handshake"])
async def test_a_client_that_vanishes_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, after: str
) -> None:
    async with relay(tmp_path) as on:
        if after == "the handshake":
            async with _child(on, "/api/events/out") as socket:
                for _ in range(50):
                    on.api.to_send.put_nowait("x" * 10_000)
                socket.transport.abort()
        else:
            async with unix_connect(
                str(on.socket), "ws://relay/api/events/in", subprotocols=[Subprotocol("prefect")]
            ) as socket:
                socket.transport.abort()
        await asyncio.sleep(0.2)
        assert (await on.child.get("/api/health")).status_code == 200
    # asyncio itself says it when several frames were on their way to a socket that has gone.
    assert [entry.message for entry in caplog.records if entry.message != "socket.send() raised exception."] == []
