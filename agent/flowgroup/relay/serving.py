"""
The relay's server: uvicorn, told to stop by us, on a Unix socket or behind TLS.

Whoever has not made a call yet is a stranger (`edge/lines.py`): it has some seconds, and there are not many.
"""

import asyncio
import contextlib
import math
import resource
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from h11 import Request
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from flowgroup import log, metrics
from flowgroup.edge.acks import Acknowledging
from flowgroup.edge.lines import Strangers, accept, shaken

_FINISH_S = 10.0
_MOST_HEADER_BYTES = 64 * 1024
_KEEPALIVE_S = 75
_FIRST_CALL_S = 10.0
_MOST_CONNECTIONS = 4000
_MOST_FILES = 65_536


class Server(uvicorn.Server):
    """uvicorn's server, told to stop by us: its own handler raises the signal again when it is done."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


class GuardedServer(Server):
    """
    The same on a listening socket that it does not own, behind TLS where there is any.

    Connections that have made a call are at most `most`: for one more, the one that has been idle for the longest is closed,
    and where none is idle, the new one.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        secured: ssl.SSLContext | None,
        *,
        most: int = _MOST_CONNECTIONS,
    ) -> None:
        super().__init__(config)
        self.strangers = Strangers()
        self.guests: dict[_Called, None] = {}
        self._most = most
        self._listener = listener
        self._secured = secured
        self._accepting: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._accepting = asyncio.create_task(self._accept(), name="accept calls")

    async def on_tick(self, counter: int) -> bool:
        if self._accepting and self._accepting.done():
            self._accepting.result()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._accepting:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    async def _accept(self) -> None:
        async with asyncio.TaskGroup() as tasks:

            def begin(accepted: socket.socket) -> None:
                tasks.create_task(self._take(accepted), name="stranger")

            await accept(self._listener, begin)

    async def _take(self, accepted: socket.socket) -> None:
        """Until the peer has made a call; from then on the connection is uvicorn's alone."""
        try:
            with self.strangers.one():
                transport, protocol = await shaken(accepted, self._protocol, self._secured)
                try:
                    async with asyncio.timeout(_FIRST_CALL_S):
                        await protocol.called.wait()
                finally:
                    if not protocol.called.is_set() or not self._has_room():
                        metrics.RELAY_REQUESTS.labels("cut_off").inc()
                        transport.abort()
        except (OSError, TimeoutError) as exc:
            log.get().debug("connection_dropped", reason=str(exc) or type(exc).__name__)

    def _has_room(self) -> bool:
        if len(self.guests) <= self._most:
            return True
        idle = next((guest for guest in self.guests if guest.is_idle), None)
        if idle is not None:
            metrics.RELAY_REQUESTS.labels("cut_off").inc()
            idle.leave()
        return idle is not None

    def _protocol(self) -> "_Called":
        return _Called(self.guests, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class _Called(H11Protocol):
    """
    uvicorn's side of a connection; `called` is set when the head of a first call is there, or the peer has gone. From then on
    it is one of the `guests`, in the order of their last calls.
    """

    def __init__(self, guests: "dict[_Called, None]", **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self.called = asyncio.Event()
        self._guests = guests

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def leave(self) -> None:
        self._guests.pop(self, None)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._guests.pop(self, None)
            self._guests[self] = None
            self.called.set()

    def handle_websocket_upgrade(self, event: Request) -> None:
        self.called.set()
        self._guests.pop(self, None)  # it is another protocol's now, and counted by its run
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guests.pop(self, None)
        self.called.set()
        super().connection_lost(exc)


def server_config(app: Starlette, *, finish_s: float = _FINISH_S) -> uvicorn.Config:
    """
    How the application is served: no line in any log per call, bounded headers and frames. Calls that have begun have
    `finish_s` seconds when it stops.
    """
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="off",
        ws=Acknowledging,
        ws_per_message_deflate=False,
        ws_max_size=5 * 1024 * 1024,
        timeout_keep_alive=_KEEPALIVE_S,
        timeout_graceful_shutdown=math.ceil(finish_s),
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
    )


def most_connections() -> int:
    """How many connections a relay keeps: half of the files that it may have open, which it raises as far as it may."""
    return max(64, min(_MOST_CONNECTIONS, _raised_file_limit() // 2))


def _raised_file_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
