"""The desk's address: calls go through it as bytes, websockets frame by frame, and children wait where nobody answers."""

import asyncio
import gzip
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from flowgroup.driver import gate
from flowgroup.driver.tunnel import Tunnels
from flowgroup.edge.lines import dialled
from flowgroup.model.endpoint import Endpoint
from tests.fakes.rude import rude
from tests.fakes.upstream import served
from tests.relay.serving import TOKEN, relay

_METHODS = ["GET", "HEAD", "POST", "DELETE"]
_CHUNK = 256 * 1024
Answer = Callable[[Request], Any]


@asynccontextmanager
async def _desk(uds: Path, *, hold_s: float = 1.0) -> AsyncIterator[str]:
    """A desk that passes everything on to `uds`; gives its address."""
    async with gate.serving(Endpoint.at(uds), hold_s=hold_s) as url:
        yield url.removesuffix("/api")


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
        return Response(packed, headers={"Content-Encoding": "gzip", "X-A": "b"})

    async with (
        _between(tmp_path, answer) as client,
        client.stream("GET", "/x", headers={"Accept-Encoding": "gzip"}) as got,
    ):
        raw = b"".join([chunk async for chunk in got.aiter_raw()])
    assert raw == packed
    assert got.headers["content-length"] == str(len(packed))
    assert got.headers["x-a"] == "b"


async def test_the_call_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        headers = [[name.decode(), value.decode()] for name, value in request.headers.raw]
        path = request.scope["raw_path"].decode()
        return JSONResponse([request.method, path, request.url.query, headers, (await request.body()).decode()])

    async with _between(tmp_path, answer) as client:
        got = await client.post("/a%20b/%2e", params={"x": "ä"}, content="hi", headers={"X-A": "b"})
        method, path, query, headers, body = got.json()
    assert (method, path, query, body) == ("POST", "/a%20b/%2e", "x=%C3%A4", "hi")
    assert headers == [[name.decode().lower(), value.decode()] for name, value in got.request.headers.raw]


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


@pytest.mark.parametrize(
    "half",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 O",
    ],
)
async def test_an_answer_that_breaks_off_in_the_middle_does_not_look_whole(half: bytes) -> None:
    async with rude(half) as (path, _), _desk(path) as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url)


@pytest.mark.parametrize("reply", [None, b""])
async def test_without_an_answer_the_client_waits(reply: bytes | None) -> None:
    async with rude(reply) as (path, _):
        if reply is None:
            path.unlink()
        async with _desk(path) as url, httpx.AsyncClient() as client:
            _told_to_wait(await client.post(url, content=b"x"))


def _told_to_wait(got: httpx.Response) -> None:
    assert got.status_code == 503
    assert got.headers["prefect-maintenance"] == "true"
    assert 1.0 <= float(got.headers["retry-after"]) <= 3.0


async def test_an_answer_that_does_not_begin_in_time_is_not_waited_for_and_one_that_has_begun_is(
    tmp_path: Path,
) -> None:
    async def answer(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(1.0)
            yield b"b"

        if request.url.path == "/late":
            await asyncio.sleep(30)
        return StreamingResponse(chunks())

    async with _between(tmp_path, answer, hold_s=0.5) as client:
        assert (await client.get("/slow")).content == b"ab"
        _told_to_wait(await client.get("/late"))
        assert (await client.get("/slow")).content == b"ab"


async def test_a_child_that_goes_away_takes_its_connection_to_the_relay_along(tmp_path: Path) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        gone.set()
        writer.close()

    async with await asyncio.start_unix_server(serve, str(tmp_path / "up.sock")), _desk(tmp_path / "up.sock") as url:
        _, child = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        async with asyncio.timeout(5):
            for part in (b"GET / HTTP/1.1\r\n", b"Host: x\r\n\r\n"):
                child.write(part)
                await child.drain()
                await asyncio.sleep(0.05)
            await asked.wait()
            child.close()
            await gone.wait()


async def test_large_bodies_arrive_whole_both_ways(tmp_path: Path) -> None:
    body = random.Random(1).randbytes(8 * 1024 * 1024)

    async def answer(request: Request) -> Response:
        return Response(await request.body())

    async with _between(tmp_path, answer, hold_s=20.0) as client:
        for _ in range(2):  # on one connection
            assert (await client.post("/x", content=body)).content == body


@asynccontextmanager
async def _tunnels(uds: Path, *, hold_s: float = 1.0) -> AsyncIterator[tuple[Tunnels, int]]:
    """Only the tunnels of a desk, and their port."""

    async def dial(protocol: asyncio.Protocol) -> asyncio.Transport:
        made, _ = await dialled(Endpoint.at(uds), lambda: protocol)
        made.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that it is soon full
        return made

    tunnels = Tunnels(dial, dial, hold_s)
    server = await asyncio.get_running_loop().create_server(tunnels.child, "127.0.0.1", 0)
    try:
        yield tunnels, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        tunnels.close()


async def test_a_connection_that_was_closed_behind_the_desk_is_closed_before_it() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with rude(whole) as (path, calls), _tunnels(path) as (tunnels, port), httpx.AsyncClient() as client:
        for _ in range(20):
            assert (await client.get(f"http://127.0.0.1:{port}/")).content == b"ok"
            async with asyncio.timeout(5):
                while tunnels.open:
                    await asyncio.sleep(0.001)
        assert len(calls) == 20


async def _written(writer: asyncio.StreamWriter) -> int:
    """How many bytes are taken until nothing goes any more for a second."""
    size = 0
    while size < 64 * 1024 * 1024:
        writer.write(bytes(_CHUNK))
        try:
            async with asyncio.timeout(1):
                await writer.drain()
        except TimeoutError:
            return size
        size += _CHUNK
    return size


@pytest.mark.parametrize("first", [b"", bytes(_CHUNK)])
async def test_a_relay_that_does_not_read_fills_no_memory(tmp_path: Path, first: bytes) -> None:
    path, ends = tmp_path / "up.sock", asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ends.wait()
        writer.transport.abort()

    async with (
        await asyncio.start_unix_server(serve, str(path), limit=1024),
        _tunnels(path, hold_s=60.0) as (_, port),
    ):
        _, child = await asyncio.open_connection("127.0.0.1", port)
        child.write(b"POST / HTTP/1.1\r\n\r\n" + first)
        assert await _written(child) < 32 * 1024 * 1024
        child.transport.abort()
        ends.set()


async def test_a_child_that_does_not_read_fills_no_memory(tmp_path: Path) -> None:
    path, taken = tmp_path / "up.sock", asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        taken.set_result(await _written(writer))
        writer.transport.abort()

    async with await asyncio.start_unix_server(serve, str(path)), _tunnels(path) as (_, port):
        _, child = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        child.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await taken < 32 * 1024 * 1024
        child.transport.abort()


async def test_dialling_and_answering_together_have_the_time_that_a_call_has(tmp_path: Path) -> None:
    ends = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ends.wait()
        writer.transport.abort()

    async def dial(protocol: asyncio.Protocol) -> asyncio.Transport:
        await asyncio.sleep(1.5)
        made, _ = await dialled(Endpoint.at(tmp_path / "up.sock"), lambda: protocol)
        return made

    loop = asyncio.get_running_loop()
    tunnels = Tunnels(dial, dial, 2.0)
    server = await loop.create_server(tunnels.child, "127.0.0.1", 0)
    async with await asyncio.start_unix_server(serve, str(tmp_path / "up.sock")), server, httpx.AsyncClient() as client:
        began = loop.time()
        _told_to_wait(await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout=20))
        assert loop.time() - began < 3.4  # and not 1.5 + 2.0
        tunnels.close()
        ends.set()


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
        connect(url.replace("http", "ws") + "/api/events/in", subprotocols=prefect) as events,
    ):
        with pytest.raises(ConnectionClosed) as ended:
            await events.recv()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1013
