"""What the desk's calls and websockets go through."""

import asyncio
import gzip
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from flowgroup.edge import forward, pump
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint
from tests.fakes.upstream import served
from tests.relay.serving import TOKEN, relay

_METHODS = ["GET", "HEAD", "POST", "DELETE"]
Answer = Callable[[Request], Any]


@asynccontextmanager
async def _desk(uds: Path, *, hold_s: float = 1.0, limit_bytes: int = 1000) -> AsyncIterator[str]:
    """A desk that passes everything on to `uds`; gives its address."""

    async def call(request: Request) -> Response:
        return await forward.pass_on(request, upstream, base_url="http://relay", hold_s=hold_s, limit_bytes=limit_bytes)

    async def events(socket: WebSocket) -> None:
        await pump.pass_on(socket, url=f"ws://relay{socket.url.path}", hold_s=hold_s, at=Endpoint.at(uds))

    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[WebSocketRoute("/{p:path}", events), Route("/{p:path}", call, methods=_METHODS)])
    async with forward.client(at=Endpoint.at(uds)) as upstream, served(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def _between(folder: Path, answer: Answer, **told: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a desk in front of a server that answers so."""
    path = folder / "up.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    app = Starlette(routes=[Route("/{p:path}", answer, methods=_METHODS)])
    async with served(app, listener), _desk(path, **told) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


async def test_compressed_bytes_are_not_touched(tmp_path: Path) -> None:
    packed = gzip.compress(b"hello" * 1000)

    async def answer(request: Request) -> Response:
        assert request.headers["accept-encoding"] == "gzip"
        return Response(packed, headers={"Content-Encoding": "gzip", "X-A": "b", "Connection": "X-B", "X-B": "c"})

    async with (
        _between(tmp_path, answer) as client,
        client.stream("GET", "/x", headers={"Accept-Encoding": "gzip"}) as got,
    ):
        raw = b"".join([chunk async for chunk in got.aiter_raw()])
    assert raw == packed
    assert got.headers["content-length"] == str(len(packed))
    assert got.headers["x-a"] == "b"
    assert "x-b" not in got.headers


async def test_the_call_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        headers = [[name.decode(), value.decode()] for name, value in request.headers.raw]
        path = request.scope["raw_path"].decode()
        return JSONResponse([request.method, path, request.url.query, headers, (await request.body()).decode()])

    async with _between(tmp_path, answer) as client:
        method, path, query, headers, body = (
            await client.post("/a%20b/%2e", params={"x": "ä"}, content="hi", headers={"TE": "x", "Keep-Alive": "5"})
        ).json()
    assert (method, path, query, body) == ("POST", "/a%20b/%2e", "x=%C3%A4", "hi")
    assert ["host", "relay"] in headers
    assert ["content-length", "2"] in headers
    assert not {"te", "keep-alive"} & {name for name, _ in headers}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("status", [200, 204, 304, 404])
async def test_every_method_and_status_comes_back(tmp_path: Path, method: str, status: int) -> None:
    async def answer(request: Request) -> Response:
        return Response(b"" if status in (204, 304) else b"body", status)

    async with _between(tmp_path, answer) as client:
        got = await client.request(method, "/x")
        assert got.status_code == status
        assert got.content == (b"body" if method != "HEAD" and status in (200, 404) else b"")
        assert (await client.get("/again")).status_code == status  # the connection is in order


async def test_large_answers_are_streamed(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"x" * 100_000

        return StreamingResponse(chunks())

    async with _between(tmp_path, answer) as client:
        assert len((await client.get("/x")).content) == 4_000_000


async def test_an_answer_that_breaks_off_in_the_middle_does_not_look_whole(tmp_path: Path) -> None:
    half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    async with _rude(half) as (path, _), _desk(path) as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url)


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        raise AssertionError("it was passed on")

    async with _between(tmp_path, answer, limit_bytes=10) as client:
        assert (await client.post("/x", content=b"x" * 11)).status_code == 413


@pytest.mark.parametrize("reply", [None, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"nonsense\r\n\r\n"])
async def test_without_an_upstream_the_client_waits(reply: bytes | None) -> None:
    async with _rude(reply) as (path, _):
        if reply is None:
            path.unlink()
        async with _desk(path) as url, httpx.AsyncClient() as client:
            got = await client.post(url, content=b"x")
    assert got.status_code == 503
    assert got.headers["prefect-maintenance"] == "true"
    assert 1.0 <= float(got.headers["retry-after"]) <= 3.0


async def test_a_call_on_a_connection_that_was_just_closed_is_sent_again_if_it_is_safe() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with _rude(whole, calls_per_connection=1) as (path, calls), forward.client(at=Endpoint.at(path)) as client:
        for method, count in (("GET", 2), ("GET", 4)):
            del calls[:]
            for _ in range(count // 2):
                request = forward.build(method, httpx.URL("http://x/y"), [], b"", hold_s=1.0)
                response, body = await forward.exchange(client, request, hold_s=1.0)
                assert (response.status_code, body) == (200, b"ok")


async def test_a_post_that_may_have_been_carried_out_is_not_sent_again() -> None:
    async with _rude(b"") as (path, calls), forward.client(at=Endpoint.at(path)) as client:
        for method, sent in (("POST", 1), ("GET", 2)):
            del calls[:]
            with pytest.raises(Transient):
                await forward.exchange(
                    client, forward.build(method, httpx.URL("http://x/y"), [], b"", hold_s=1.0), hold_s=1.0
                )
            assert len(calls) == sent


@asynccontextmanager
async def _rude(reply: bytes | None, *, calls_per_connection: int = 1) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """A server which answers each connection's first calls with these bytes, and hangs up."""
    calls: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(calls_per_connection):
            calls.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(reply or b"")
            await writer.drain()
        writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rude.sock"
        async with await asyncio.start_unix_server(serve, str(path)):
            yield path, calls


@pytest.mark.parametrize(("asked", "least", "most"), [(None, 1, 3), (0.0, 1, 3), (10.0, 10, 12.5), (1e9, 300, 375)])
def test_retry_after_is_spread(asked: float | None, least: float, most: float) -> None:
    waits = [float(forward.away("x", retry_after_s=asked).headers["retry-after"]) for _ in range(50)]
    assert all(least <= wait <= most for wait in waits)
    assert len(set(waits)) > 10


async def test_events_go_through_desk_and_relay(tmp_path: Path) -> None:
    async with relay(tmp_path) as on, _desk(on.socket) as url:
        address = url.replace("http", "ws") + "/api/events/in"
        async with connect(address, subprotocols=[Subprotocol("prefect")]) as events:
            await (await events.ping())
            await events.send(json.dumps({"type": "auth", "token": TOKEN}))
            assert json.loads(await events.recv()) == {"type": "auth_success"}
            await events.send('{"event": "mine", "resource": {"prefect.resource.id": "x"}}')
            async with asyncio.timeout(5):
                while not any(isinstance(body, list) and body[0]["event"] == "mine" for body in on.api.taken):
                    await asyncio.sleep(0.01)


async def test_without_a_relay_a_websocket_is_told_to_try_again(tmp_path: Path) -> None:
    prefect = [Subprotocol("prefect")]
    async with (
        _desk(tmp_path / "nobody.sock") as url,
        connect(url.replace("http", "ws"), subprotocols=prefect) as events,
    ):
        with pytest.raises(ConnectionClosed) as ended:
            await events.recv()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1013
