"""
A child's connections, taken as bytes to the relay and back: a call that was parsed and built anew here took 3 ms.

What the relay says is passed on as it is. Where it says nothing (it cannot be reached, it is too slow, or it goes away before
it has begun to answer) the child is told to wait, as the relay tells it while the API is away. Only the first head on a
connection is looked at: a websocket's goes another way.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from flowgroup.edge.forward import away
from flowgroup.errors import FlowgroupError

_HEAD_ENDS = b"\r\n\r\n"
_MOST_HEAD_BYTES = 64 * 1024
_IS_WEBSOCKET = re.compile(rb"\r\nupgrade:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)

Dial = Callable[[asyncio.Protocol], Awaitable[asyncio.Transport]]
"""Opens a connection that speaks to this protocol. Raises FlowgroupError."""


@dataclass(eq=False)
class Tunnels:
    """All connections of children. The relay has `hold_s` seconds to begin an answer, dialling it included."""

    relay: Dial
    websockets: Dial
    hold_s: float
    open: set["Child"] = field(default_factory=set)

    def child(self) -> "Child":
        return Child(self)

    def close(self) -> None:
        for child in list(self.open):
            child.abort()


class Child(asyncio.Protocol):
    """
    The child's end. `_until`: by when the relay is to have begun its answer, None while nothing is asked.

    The timer is not cancelled with each answer: it looks again when it comes.
    """

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels
        self._loop = asyncio.get_running_loop()
        self._early = bytearray()
        self._dialling: asyncio.Task[None] | None = None
        self._other: _Other | None = None
        self._is_call = True
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._tunnels.open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.transport.write(data)
            self._asked(self._loop.time() + self._tunnels.hold_s)
            return
        self._early += data
        if self._dialling is None and (_HEAD_ENDS in self._early or len(self._early) > _MOST_HEAD_BYTES):
            self.transport.pause_reading()
            self._dialling = self._loop.create_task(self._dial(), name="dial for a child")

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnels.open.discard(self)
        self._until = None
        if self._timer is not None:
            self._timer.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._other is not None:
            self._other.transport.abort()

    def abort(self) -> None:
        self.transport.abort()

    def answered(self, data: bytes) -> None:
        self._until = None
        self.transport.write(data)

    def left(self) -> None:
        """The other side has closed."""
        if self._until is not None:
            self._wait("the connection to the relay broke")
        else:
            self.transport.close()

    async def _dial(self) -> None:
        self._is_call = not _IS_WEBSOCKET.search(self._early, 0, self._early.find(_HEAD_ENDS) + 2)
        dial = self._tunnels.relay if self._is_call else self._tunnels.websockets
        other, until = _Other(self), self._loop.time() + self._tunnels.hold_s
        try:
            async with asyncio.timeout_at(until):
                await dial(other)
        except TimeoutError:
            self._wait(f"no connection to the relay within {self._tunnels.hold_s:g} s")
        except FlowgroupError as exc:
            self._wait(str(exc))
        else:
            self._begin(other, until)

    def _begin(self, other: "_Other", until: float) -> None:
        if self.transport.is_closing():
            other.transport.abort()
            return
        self._other = other
        self.transport.resume_reading()  # before the first bytes are written: if they are many, this is to pause again
        other.transport.write(bytes(self._early))
        self._early.clear()
        self._asked(until)

    def _asked(self, until: float) -> None:
        """Frames of a websocket are no questions."""
        if self._is_call:
            self._until = until
            if self._timer is None:
                self._timer = self._loop.call_at(until, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        else:
            self._wait(f"no answer within {self._tunnels.hold_s:g} s")

    def _wait(self, reason: str) -> None:
        """Tell the child to wait, and close."""
        self._until = None
        if not self.transport.is_closing():
            told = away(reason)
            headers = b"".join(b"%s: %s\r\n" % header for header in told.raw_headers)
            head = f"HTTP/1.1 {told.status_code} {HTTPStatus(told.status_code).phrase}\r\n".encode()
            self.transport.write(head + headers + b"connection: close\r\n\r\n" + bytes(told.body))
            self.transport.close()


class _Other(asyncio.Protocol):
    """The relay's end, or the websockets'."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._child.answered(data)

    def pause_writing(self) -> None:
        self._child.transport.pause_reading()

    def resume_writing(self) -> None:
        self._child.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.left()
