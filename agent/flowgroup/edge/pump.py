"""
Pass one websocket on to an upstream, frame by frame, and its frames back. The driver's desk and the relay
stand on this.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from flowgroup.edge import tls
from flowgroup.errors import Refused, Transient
from flowgroup.model.endpoint import Endpoint

EVENTS_IN = "/events/in"
MAX_FRAME_BYTES = 5 * 1024 * 1024
# The codes that Prefect's client takes as "again": anything but 1000 and 1001.
TRY_AGAIN = 1013
# How Starlette says that the client has gone away.
_GONE = (WebSocketDisconnect, RuntimeError, OSError)
POLICY = 1008
_NEVER_SENT = {1005: 1000, 1006: TRY_AGAIN, 1015: TRY_AGAIN}  # codes that only an endpoint itself may note
_OWN_HEADERS = frozenset(
    b"host connection upgrade sec-websocket-key sec-websocket-version sec-websocket-extensions "
    b"sec-websocket-protocol user-agent content-length".split()
)

Check = Callable[[str | bytes], Awaitable[bool]]


class Denied(Exception):
    """The upstream answered the upgrade with an HTTP status instead."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the upgrade was answered with HTTP {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Ending:
    """How a websocket ended."""

    code: int
    reason: str = ""


@asynccontextmanager
async def upstream(
    url: str,
    *,
    headers: list[tuple[str, str]],
    subprotocols: list[str],
    hold_s: float,
    at: Endpoint | None = None,
    verify: ssl.SSLContext | None = None,
) -> AsyncIterator[ClientConnection]:
    """
    A websocket to `url`: straight to a room of ours (`at`), or through the environment's proxies to anybody else.

    Raises Denied when the other side answers with an HTTP status, Transient when there is no answer within
    `hold_s`.
    """
    kept = [(name, value) for name, value in headers if name.lower().encode() not in _OWN_HEADERS]
    agent = next((value for name, value in headers if name.lower() == "user-agent"), None)
    options = {"additional_headers": kept, "user_agent_header": agent, **_options(subprotocols, hold_s)}
    async with _open(_opening(url, at, verify, options)) as connection:
        yield connection


@asynccontextmanager
async def near(url: str, *, subprotocols: list[str], hold_s: float) -> AsyncIterator[ClientConnection]:
    """A websocket to what no proxy is to stand before, with no header of anybody's. Raises as `upstream`."""
    async with _open(connect(url, proxy=None, **_options(subprotocols, hold_s))) as connection:
        yield connection


def _options(subprotocols: list[str], hold_s: float) -> dict[str, Any]:
    return {
        "subprotocols": [Subprotocol(name) for name in subprotocols] or None,
        "max_size": MAX_FRAME_BYTES,
        "open_timeout": hold_s,
        "close_timeout": 2.0,
    }


@asynccontextmanager
async def _open(opening: connect) -> AsyncIterator[ClientConnection]:
    connection = await _opened(opening)
    try:
        yield connection
    finally:
        await connection.close()


def _opening(url: str, at: Endpoint | None, verify: ssl.SSLContext | None, options: dict[str, Any]) -> connect:
    if at is None:
        return connect(url, ssl=verify if url.startswith("wss:") else None, **options)
    if at.socket:
        return unix_connect(str(at.socket), url, compression=None, **options)
    return connect(url, ssl=tls.trusting(at.ca), proxy=None, compression=None, **options)


async def _opened(opening: connect) -> ClientConnection:
    try:
        return await opening
    except InvalidStatus as exc:
        raise Denied(exc.response.status_code) from exc
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as exc:
        raise Transient(f"cannot be reached: {type(exc).__name__}") from exc


async def pump(
    socket: WebSocket, upstream: ClientConnection, *, check: Check | None = None, acknowledged: bool = False
) -> Ending:
    """
    Pass frames both ways until either side ends; then end the other side in the same way. The socket is
    accepted.

    `check` sees every frame from the socket before it is sent. When it says False the frame is dropped; when
    it raises Refused both sides are closed (1008), when it raises Transient the client is to try again. With
    `acknowledged` a frame is dealt with when the upstream has answered a ping after it (`acks.py`).
    """
    outward = asyncio.create_task(_outward(socket, upstream, check, acknowledged), name="pump-outward")
    inward = asyncio.create_task(_inward(socket, upstream), name="pump-inward")
    try:
        done, _ = await asyncio.wait((outward, inward), return_when=asyncio.FIRST_COMPLETED)
    finally:
        outward.cancel()
        inward.cancel()
        await asyncio.gather(outward, inward, return_exceptions=True)
    ending = next(iter(done)).result()
    await close(socket, ending)
    await upstream.close(ending.code, _shortened(ending.reason))
    return ending


async def _outward(socket: WebSocket, upstream: ClientConnection, check: Check | None, acknowledged: bool) -> Ending:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return Ending(_sendable(message.get("code")), message.get("reason") or "")
        text = message.get("text")
        frame: str | bytes = text if text is not None else message["bytes"]
        try:
            if check is None or await check(frame):
                await upstream.send(frame)
            if acknowledged:
                await (await upstream.ping())
        except Refused as exc:
            return Ending(POLICY, str(exc))
        except Transient as exc:
            return Ending(TRY_AGAIN, str(exc))
        except ConnectionClosed as exc:
            return _ended(exc)


async def _inward(socket: WebSocket, upstream: ClientConnection) -> Ending:
    try:
        while True:
            frame = await upstream.recv()
            await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
    except ConnectionClosed as exc:
        return _ended(exc)
    except (
        RuntimeError,
        OSError,
        WebSocketDisconnect,
    ):  # the socket is gone; Starlette says so in three ways
        return Ending(1001)


async def close(socket: WebSocket, ending: Ending) -> None:
    """Close the socket, if it is still there."""
    try:
        await socket.close(ending.code, _shortened(ending.reason))
    except (RuntimeError, OSError, WebSocketDisconnect):
        return  # it was closed from the other side


async def turn_away(socket: WebSocket, reason: str) -> None:
    """
    Tell the client to try again. The socket was not accepted yet.

    Accepted first, and closed before any answer to its first frame: Prefect's client tries again after a
    closed connection, but gives up after a refused upgrade.
    """
    try:
        await socket.accept(subprotocol="prefect" if "prefect" in socket.scope["subprotocols"] else None)
    except _GONE:
        return
    await close(socket, Ending(TRY_AGAIN, reason))


async def deny(socket: WebSocket, answer: Response) -> None:
    """Answer the upgrade with an HTTP status: never again."""
    await socket.send_denial_response(answer)


async def pass_on(socket: WebSocket, *, url: str, hold_s: float, at: Endpoint | None = None) -> None:
    """
    The desk's whole job: the websocket as it is, to `url`. Without an upstream the client is told to try
    again.
    """
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in socket.headers.raw]
    offered = list(socket.scope["subprotocols"])
    try:
        async with upstream(url, headers=headers, subprotocols=offered, hold_s=hold_s, at=at) as connection:
            await socket.accept(subprotocol=connection.subprotocol)
            await pump(socket, connection, acknowledged=url.endswith(EVENTS_IN))
    except WebSocketDisconnect:
        return  # the client went away before it was let in
    except Denied as exc:
        await deny(socket, Response(status_code=exc.status))
    except Transient as exc:
        await turn_away(socket, tls.explained(exc, at) or str(exc))


def _ended(exc: ConnectionClosed) -> Ending:
    return Ending(_sendable(exc.rcvd.code), exc.rcvd.reason) if exc.rcvd else Ending(TRY_AGAIN, "the connection broke")


def _sendable(code: int | None) -> int:
    return _NEVER_SENT.get(code, code) if code else 1000


def _shortened(reason: str) -> str:
    """At most 123 bytes fit into a close frame."""
    return reason.encode()[:120].decode(errors="ignore")
