"""What the desk's calls and websockets go through."""

import asyncio
import gc
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
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from flowgroup.driver import gate
from flowgroup.driver.tunnel import Tunnels
from flowgroup.edge import forward
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint
from tests.fakes.upstream import served
from tests.relay.serving import TOKEN, relay

_METHODS = ["GET", "HEAD", "POST", "DELETE"]
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


def test_headers_of_one_connection_are_not_the_calls_own() -> None:
    said = [(b"te", b"x"), (b"keep-alive", b"5"), (b"connection", b"close, X-B"), (b"x-b", b"c"), (b"x-a", b"b")]
    assert forward.passing_headers([*said, (b"host", b"h"), (b"content-length", b"2")]) == [(b"x-a", b"b")]


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
    async with _rude(half) as (path, _), _desk(path) as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url)


@pytest.mark.parametrize("reply", [None, b""])
async def test_without_an_answer_the_client_waits(reply: bytes | None) -> None:
    async with _rude(reply) as (path, _):
        if reply is None:
            path.unlink()
        async with _desk(path) as url, httpx.AsyncClient() as client:
            assert_told_to_wait(await client.post(url, content=b"x"))


def assert_told_to_wait(got: httpx.Response) -> None:
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
        assert_told_to_wait(await client.get("/late"))
        assert (await client.get("/slow")).content == b"ab"


async def test_a_connection_that_was_closed_behind_the_desk_is_closed_before_it(tmp_path: Path) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with _rude(whole) as (path, calls), _desk(path) as url, httpx.AsyncClient() as client:
        for _ in range(20):
            assert (await client.get(url)).content == b"ok"
            await asyncio.sleep(0.02)
        assert len(calls) == 20


async def test_a_slow_reader_and_a_large_body_fill_no_memory(tmp_path: Path) -> None:
    size = 32 * 1024 * 1024

    async def answer(request: Request) -> Response:
        taken = 0
        async for chunk in request.stream():
            taken += len(chunk)
        return Response(b"x" * taken)

    async with (
        _between(tmp_path, answer, hold_s=20.0) as client,
        client.stream("POST", "/x", content=b"y" * size) as got,
    ):
        await asyncio.sleep(0.5)
        [tunnels] = [found for found in gc.get_objects() if isinstance(found, Tunnels) and found.open]
        [child] = tunnels.open
        assert child.transport.get_write_buffer_size() < 1024 * 1024
        assert sum([len(chunk) async for chunk in got.aiter_raw()]) == size


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
        connect(url.replace("http", "ws") + "/api/events/in", subprotocols=prefect) as events,
    ):
        with pytest.raises(ConnectionClosed) as ended:
            await events.recv()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1013
