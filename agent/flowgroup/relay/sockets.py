"""
Prefect's event websockets: `/api/events/in`, where each event is judged, and `/api/events/out`, which is
read.

The relay shakes hands with both sides itself, so that a child always speaks Prefect's own protocol, whatever
the API behind us speaks, and never sees the token.

Events that come in are acknowledged by pong frames (`edge/acks.py`) when they are in the spool, which brings them to the API:
nobody waits for the API's own websocket.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from flowgroup import log, metrics
from flowgroup.edge import pump
from flowgroup.errors import Refused, Transient
from flowgroup.relay import door, named
from flowgroup.relay.intake import Intake
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.tokens import Attempts, OpenAttempt
from flowgroup.relay.upstream import Upstream
from flowgroup.settings import RelaySettings

_SUBPROTOCOL = "prefect"
_EVENTS_OUT = "/events/out"
# Prefect's client waits 10 s for an upgrade, and tries again when that time is over.
_DIAL_S = 8.0
_FIRST_FRAME_S = 10.0


class Sockets:
    """`/api/events/in` and `/api/events/out`."""

    def __init__(self, attempts: Attempts, upstream: Upstream, intake: Intake, settings: RelaySettings) -> None:
        self._attempts = attempts
        self._upstream = upstream
        self._intake = intake
        self._dial_s = min(_DIAL_S, settings.hold_s)
        self._most = settings.websockets_per_run
        self._is_strict = settings.profile == "strict"

    async def events_in(self, socket: WebSocket) -> None:
        await self._serve(socket, pump.EVENTS_IN)

    async def events_out(self, socket: WebSocket) -> None:
        """In the profile `strict` nobody reads what happens to all runs."""
        await (self.refuse(socket) if self._is_strict else self._serve(socket, _EVENTS_OUT))

    async def refuse(self, socket: WebSocket) -> None:
        """Any other websocket."""
        detail = f"flowgroup's relay refuses the websocket {socket.url.path[:200]}: a flow run does not open it"
        metrics.RELAY_REQUESTS.labels("refused").inc()
        await pump.deny(socket, JSONResponse({"detail": detail}, 403))

    async def _serve(self, socket: WebSocket, path: str) -> None:
        with contextlib.suppress(WebSocketDisconnect):  # the client may go away at any moment before the pump runs
            await self._let_in(socket, path)

    async def _let_in(self, socket: WebSocket, path: str) -> None:
        if not self._attempts.known:
            await pump.turn_away(socket, "the relay has just started")
        elif _SUBPROTOCOL not in socket.scope["subprotocols"]:
            await pump.deny(socket, Response("the subprotocol prefect is needed", 400))
        elif "authorization" in socket.headers:
            await self._known_by_header(socket, path)
        else:
            await self._known_by_frame(socket, path)

    async def _known_by_header(self, socket: WebSocket, path: str) -> None:
        """The API is dialled before the child is let in: a child that is turned away then tries again."""
        attempt = door.admit(self._attempts, socket.headers)
        if isinstance(attempt, Response):
            await pump.deny(socket, attempt)
            return
        try:
            async with self._place(attempt), self._behind(socket, path) as upstream:
                await socket.accept(subprotocol=_SUBPROTOCOL)
                if await _auth_frame(socket) is not None:
                    await self._pass(socket, upstream, attempt)
        except Transient as exc:
            metrics.RELAY_REQUESTS.labels("away").inc()
            await pump.turn_away(socket, str(exc))

    async def _known_by_frame(self, socket: WebSocket, path: str) -> None:
        await socket.accept(subprotocol=_SUBPROTOCOL)
        frame = await _auth_frame(socket)
        if frame is None:
            return
        attempt = self._attempts.find(frame) if frame else None
        if attempt is None:
            await self._close_unknown(socket, frame)
            return
        try:
            async with self._place(attempt), self._behind(socket, path) as upstream:
                await self._pass(socket, upstream, attempt)
        except Transient as exc:
            metrics.RELAY_REQUESTS.labels("away").inc()
            await pump.close(socket, pump.Ending(pump.TRY_AGAIN, str(exc)))

    @asynccontextmanager
    async def _place(self, attempt: OpenAttempt) -> AsyncIterator[None]:
        """One of the attempt's websockets. Raises Transient when it has enough."""
        if attempt.websockets >= self._most:
            raise Transient("this run has too many websockets open already")
        attempt.websockets += 1
        try:
            yield
        finally:
            attempt.websockets -= 1

    async def _close_unknown(self, socket: WebSocket, token: str) -> None:
        if self._attempts.may_be_open(token):
            await pump.close(socket, pump.Ending(pump.TRY_AGAIN, door.NOT_KNOWN_YET))
            return
        metrics.RELAY_REQUESTS.labels("unauthorized").inc()
        await pump.close(socket, pump.Ending(pump.POLICY, door.NOT_OPEN))

    @asynccontextmanager
    async def _behind(self, socket: WebSocket, path: str) -> AsyncIterator[ClientConnection | None]:
        """The API's websocket, or None where events are kept here. Raises Transient."""
        if path == pump.EVENTS_IN:
            yield None
            return
        async with self._dialled(socket, path) as upstream:
            yield upstream

    async def _pass(self, socket: WebSocket, upstream: ClientConnection | None, attempt: OpenAttempt) -> None:
        """
        Both sides have shaken hands. Transient from here on would be the pump's to tell: it closes with a
        code.
        """
        metrics.RELAY_REQUESTS.labels("passed").inc()
        await socket.send_json({"type": "auth_success"})
        if upstream is None:
            await pump.close(socket, await self._kept(socket, attempt))
            return

        async def check(_: str | bytes) -> bool:
            await asyncio.sleep(0)  # a flood of frames never waits for anything else, and all others would wait for it
            if not self._attempts.is_open(attempt):
                raise Refused(door.NOT_OPEN)
            return True

        await pump.pump(socket, upstream, check=check)

    async def _kept(self, socket: WebSocket, attempt: OpenAttempt) -> pump.Ending:
        """Store each event before the next one is asked for."""
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return pump.Ending(1000)
            if not self._attempts.is_open(attempt):
                return pump.Ending(pump.POLICY, door.NOT_OPEN)
            text = message.get("text")
            try:
                event = named.parse(text if text is not None else message["bytes"])
            except named.Malformed:
                metrics.RELAY_REQUESTS.labels("refused").inc()
                continue
            try:
                events = await self._intake.passing(attempt, Kind.EVENTS, [event])
                await self._intake.spool.store(events=events)
            except Transient as exc:
                return pump.Ending(pump.TRY_AGAIN, str(exc))

    @asynccontextmanager
    async def _dialled(self, socket: WebSocket, path: str) -> AsyncIterator[ClientConnection]:
        """The API's side of the websocket, after its handshake. Raises Transient when there is none."""
        try:
            async with self._open(socket, path) as upstream:
                await self._shake_hands(upstream)
                yield upstream
        except pump.Denied as exc:
            log.get().error("api_refuses_websocket", path=path, status=exc.status)
            raise Transient(f"Prefect's API: {exc}") from exc

    def _open(self, socket: WebSocket, path: str) -> AbstractAsyncContextManager[ClientConnection]:
        return pump.upstream(
            self._upstream.socket_url(path),
            headers=self._upstream.socket_headers(socket.headers.get("user-agent")),
            subprotocols=[_SUBPROTOCOL],
            hold_s=self._dial_s,
            verify=self._upstream.verify,
        )

    async def _shake_hands(self, upstream: ClientConnection) -> None:
        try:
            async with asyncio.timeout(self._dial_s):
                await upstream.send(json.dumps({"type": "auth", "token": self._upstream.socket_token()}))
                answer = json.loads(await upstream.recv())
        except (ConnectionClosed, TimeoutError, ValueError) as exc:
            raise Transient(f"Prefect's API did not finish the handshake: {type(exc).__name__}") from exc
        if not isinstance(answer, dict) or answer.get("type") != "auth_success":
            raise Transient("Prefect's API did not take the relay's credentials")


async def _auth_frame(socket: WebSocket) -> str | None:
    """
    The token in a child's first frame, "" if it shows none; None if the frame never came (the socket is
    closed).
    """
    try:
        async with asyncio.timeout(_FIRST_FRAME_S):
            first = json.loads(await socket.receive_text())
    except WebSocketDisconnect:
        return None
    except (TimeoutError, ValueError, KeyError):
        first = None
    if not isinstance(first, dict) or first.get("type") != "auth":
        await pump.close(socket, pump.Ending(pump.POLICY, "the first frame must be of type auth"))
        return None
    token = first.get("token")
    return token if isinstance(token, str) else ""
