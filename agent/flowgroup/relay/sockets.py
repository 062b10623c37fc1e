"""
Prefect's event websockets: `/api/events/in`, where each event is judged, and `/api/events/out`, which is
read.

The relay shakes hands with both sides itself, so that a child always speaks Prefect's own protocol, whatever
the API behind us speaks (Prefect Cloud's `/events/in` has no handshake), and never sees the token.

Events that come in are acknowledged by pong frames (`edge/acks.py`) when they are in the spool, which brings them to the API
by calls: nobody waits for the API's own websocket. It is not known that Prefect Cloud takes all events by calls, so there they
go on to its websocket, and one that the relay has and Cloud has not is lost if either dies at that moment.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
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
from flowgroup.relay.owners import Owners
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.tokens import Attempts, Named, OpenAttempt
from flowgroup.relay.upstream import Upstream
from flowgroup.settings import RelaySettings

_SUBPROTOCOL = "prefect"
# Prefect's client waits 10 s for an upgrade, and tries again when that time is over.
_DIAL_S = 8.0
_FIRST_FRAME_S = 10.0


class Sockets:
    """`/api/events/in` and `/api/events/out`."""

    def __init__(
        self, attempts: Attempts, upstream: Upstream, owners: Owners, intake: Intake, settings: RelaySettings
    ) -> None:
        self._attempts = attempts
        self._upstream = upstream
        self._owners = owners
        self._intake = intake
        self._dial_s = min(_DIAL_S, settings.hold_s)
        self._most = settings.websockets_per_run
        self._is_strict = settings.profile == "strict"

    async def events_in(self, socket: WebSocket) -> None:
        await self._serve(socket, pump.EVENTS_IN, judged=True)

    async def events_out(self, socket: WebSocket) -> None:
        """In the profile `strict` nobody reads what happens to all runs."""
        await (self.refuse(socket) if self._is_strict else self._serve(socket, "/events/out", judged=False))

    async def refuse(self, socket: WebSocket) -> None:
        """Any other websocket."""
        detail = f"flowgroup's relay refuses the websocket {socket.url.path[:200]}: a flow run does not open it"
        metrics.RELAY_REQUESTS.labels("refused").inc()
        await pump.deny(socket, JSONResponse({"detail": detail}, 403))

    async def _serve(self, socket: WebSocket, path: str, *, judged: bool) -> None:
        with contextlib.suppress(WebSocketDisconnect):  # the client may go away at any moment before the pump runs
            await self._let_in(socket, path, judged=judged)

    async def _let_in(self, socket: WebSocket, path: str, *, judged: bool) -> None:
        if not self._attempts.known:
            await pump.turn_away(socket, "the relay has just started")
        elif _SUBPROTOCOL not in socket.scope["subprotocols"]:
            await pump.deny(socket, Response("the subprotocol prefect is needed", 400))
        elif "authorization" in socket.headers:
            await self._known_by_header(socket, path, judged=judged)
        else:
            await self._known_by_frame(socket, path, judged=judged)

    async def _known_by_header(self, socket: WebSocket, path: str, *, judged: bool) -> None:
        """The API is dialled before the child is let in: a child that is turned away then tries again."""
        attempt = door.admit(self._attempts, socket.headers)
        if isinstance(attempt, Response):
            await pump.deny(socket, attempt)
            return
        try:
            async with self._place(attempt), self._behind(socket, path) as upstream:
                await socket.accept(subprotocol=_SUBPROTOCOL)
                if await _auth_frame(socket) is not None:
                    await self._pass(socket, upstream, attempt, judged=judged)
        except Transient as exc:
            metrics.RELAY_REQUESTS.labels("away").inc()
            await pump.turn_away(socket, str(exc))

    async def _known_by_frame(self, socket: WebSocket, path: str, *, judged: bool) -> None:
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
                await self._pass(socket, upstream, attempt, judged=judged)
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
        if path == pump.EVENTS_IN and not self._upstream.is_cloud:
            yield None
            return
        async with self._dialled(socket, path) as upstream:
            yield upstream

    async def _pass(
        self, socket: WebSocket, upstream: ClientConnection | None, attempt: OpenAttempt, *, judged: bool
    ) -> None:
        """
        Both sides have shaken hands. Transient from here on would be the pump's to tell: it closes with a
        code.
        """
        metrics.RELAY_REQUESTS.labels("passed").inc()
        await socket.send_json({"type": "auth_success"})
        if upstream is None:
            await pump.close(socket, await self._kept(socket, attempt))
            return

        async def check(frame: str | bytes) -> bool:
            await asyncio.sleep(0)  # a flood of frames never waits for anything else, and all others would wait for it
            if not self._attempts.is_open(attempt):
                raise Refused(door.NOT_OPEN)
            return not judged or await self._may_pass(attempt, frame)

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

    async def _may_pass(self, attempt: OpenAttempt, frame: str | bytes) -> bool:
        """
        Whether an event may go on. One that may not is dropped alone: after a closed connection Prefect's
        client would send it again, and never anything after it.
        """
        reason = await self._owners.why_not(attempt, _names_in(frame))
        if reason is None:
            return True
        log.get().warning("event_refused", run=attempt.run_id, reason=reason)
        metrics.RELAY_REQUESTS.labels("refused").inc()
        return False

    @asynccontextmanager
    async def _dialled(self, socket: WebSocket, path: str) -> AsyncIterator[ClientConnection]:
        """The API's side of the websocket, after its handshake. Raises Transient when there is none."""
        try:
            async with self._open(socket, path) as upstream:
                if not self._is_without_handshake(path):
                    await self._shake_hands(upstream)
                yield upstream
        except pump.Denied as exc:
            log.get().error("api_refuses_websocket", path=path, status=exc.status)
            raise Transient(f"Prefect's API: {exc}") from exc

    def _open(self, socket: WebSocket, path: str) -> AbstractAsyncContextManager[ClientConnection]:
        return pump.upstream(
            self._upstream.socket_url(path),
            headers=self._upstream.socket_headers(socket.headers.get("user-agent")),
            subprotocols=[] if self._is_without_handshake(path) else [_SUBPROTOCOL],
            hold_s=self._dial_s,
            verify=self._upstream.verify,
        )

    def _is_without_handshake(self, path: str) -> bool:
        return self._upstream.is_cloud and path == pump.EVENTS_IN

    async def _shake_hands(self, upstream: ClientConnection) -> None:
        try:
            async with asyncio.timeout(self._dial_s):
                await upstream.send(json.dumps({"type": "auth", "token": self._upstream.socket_token()}))
                answer = json.loads(await upstream.recv())
        except (ConnectionClosed, TimeoutError, ValueError) as exc:
            raise Transient(f"Prefect's API did not finish the handshake: {type(exc).__name__}") from exc
        if not isinstance(answer, dict) or answer.get("type") != "auth_success":
            raise Transient("Prefect's API did not take the relay's credentials")


def _names_in(frame: str | bytes) -> Iterator[Named]:
    """What an event names. Raises Malformed when it is asked for."""
    yield from named.event_names(named.parse(frame))


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
