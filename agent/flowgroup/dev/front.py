"""
A proxy before a real Prefect server: another address, a key, rate limits, and faults on command, real on the wire.

It runs in a thread of its own, so that whoever commands it may block. Calls are passed on as they are, one after the other
on each connection, and answers and websockets as bytes.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

_CHUNK_BYTES = 64 * 1024
_HEAD_BYTES = 1024 * 1024
_LOOPBACK = "127.0.0.1"
LOCALHOST = "localhost"  # what its certificate is for
_FILLERS = 8
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is not sent yet is dropped, and the other side is told so by RST
_GIVES_UP_S = 10.0


class Fault(NamedTuple):
    """
    What goes wrong. `answers`: every call is answered with this status; `silent`: calls are taken, and nothing comes back;
    `refuses`: nobody listens; `swallows`: no packet is answered; `cuts`: the server carries the call out, and its answer
    breaks off in the middle; `loses`: it carries it out, and nothing of the answer arrives; `shows`: another's certificate.
    """

    how: Literal["answers", "silent", "refuses", "swallows", "cuts", "loses", "shows"]
    status: int = 0
    retry_after_s: float | None = None


FAULTS: Mapping[str, Fault] = {
    "500": Fault("answers", 500),
    "503 with Retry-After": Fault("answers", 503, 5.0),
    "429": Fault("answers", 429, 5.0),
    "time-outs": Fault("silent"),
    "refused connections": Fault("refuses"),
    "black hole": Fault("swallows"),
    "answers cut in the middle": Fault("cuts"),
    "answers lost after the commit": Fault("loses"),
    "wrong certificate": Fault("shows"),
}


class Call(NamedTuple):
    """A call as it came: `at` is when, on the monotonic clock."""

    at: float
    method: str
    path: str


class _Request(NamedTuple):
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def encoded(self, target: str, *without: bytes) -> bytes:
        lines = [f"{self.method} {target} HTTP/1.1".encode()]
        lines += [name + b": " + value for name, value in self.headers if name.lower() not in without]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


@dataclass
class Front:
    """
    `server` is the real one (`http://host:port`). `prefix` must stand before every path, `key` must be shown as Bearer; every
    `limited_every`th call is answered 429.

    `slow_s` is how long the first Running of every run is on its way, as when SQLite waits for its lock; `landed` has what
    the server answered to those. `refused` has the paths of calls without path or key, `limited` counts those that were told
    to wait, `seen` has all calls. `tls` is what it shows when it is well, `wrong` when its certificate is wrong.
    """

    server: str
    prefix: str = "/api"
    key: str | None = None
    limited_every: int = 0
    websockets: bool = True
    slow_s: float = 0.0
    tls: ssl.SSLContext | None = None
    wrong: ssl.SSLContext | None = None
    url: str = ""
    seen: list[Call] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    limited: int = 0
    landed: list[int] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None
    _fault: Fault | None = None
    _well: asyncio.Event = field(default_factory=asyncio.Event)
    _port: int = 0
    _listening: asyncio.Server | None = None
    _hole: list[socket.socket] = field(default_factory=list)
    _open: "set[asyncio.StreamWriter]" = field(default_factory=set)

    def go_wrong(self, fault: Fault) -> None:
        """From now on. Returns when it is so."""
        self._told(fault)

    def heal(self) -> None:
        """As before. What was swallowed meanwhile stays lost."""
        self._told(None)

    def _told(self, fault: Fault | None) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._become(fault), self._loop).result(_GIVES_UP_S)

    async def _become(self, fault: Fault | None) -> None:
        before, self._fault = self._fault, fault
        if fault is None:
            self._well.set()
        else:
            self._well.clear()
        if {"refuses", "swallows", "shows"} & {one.how for one in (before, fault) if one}:
            await self._listen_anew(before, fault)

    async def _listen_anew(self, before: Fault | None, fault: Fault | None) -> None:
        await self.end()
        if fault is None or fault.how != "swallows":  # in a black hole connections do not hear that they are over
            self._cut_all()
        if fault is None or fault.how not in ("refuses", "swallows"):
            await self.listen()
        elif fault.how == "swallows":
            self._hole = _black_hole(self._port)

    def _cut_all(self) -> None:
        for writer in self._open:
            _reset(writer)

    async def listen(self) -> None:
        context = self.wrong if self._fault and self._fault.how == "shows" else self.tls
        self._listening = await asyncio.start_server(
            self._connected, _LOOPBACK, self._port, ssl=context, limit=_HEAD_BYTES, reuse_address=True
        )
        self._port = self._listening.sockets[0].getsockname()[1]
        at = f"https://{LOCALHOST}" if self.tls else f"http://{_LOOPBACK}"
        self.url = f"{at}:{self._port}{self.prefix}"

    async def end(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for end in self._hole:
            end.close()
        self._hole = []

    # One connection

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await _Connection(self, reader, writer).serve()
        except (OSError, EOFError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # either side went, or spoke no HTTP
        finally:
            self._open.discard(writer)
            writer.close()

    def answered_here(self, request: _Request) -> bytes | None:
        """What this proxy says to a call itself, if it does not pass it on."""
        path = urlsplit(request.target).path
        self.seen.append(Call(time.monotonic(), request.method, path))
        if self._fault and self._fault.how == "answers":
            return _answer(self._fault.status, b'{"detail":"told to fail"}', self._fault.retry_after_s)
        if self.key and request.header(b"authorization") != f"Bearer {self.key}".encode():
            self.refused.append(path)
            return _answer(401, b"who are you?")
        if not path.startswith(f"{self.prefix}/"):
            self.refused.append(path)
            return _answer(404, b"no such path")
        if request.header(b"upgrade") and not self.websockets:
            return _answer(403, b"no websockets here")
        if self.limited_every and not request.header(b"upgrade") and len(self.seen) % self.limited_every == 0:
            self.limited += 1
            return _answer(429, b"slowly", 1.0)
        return None

    def is_late(self, request: _Request) -> bool:
        """Whether it is a run's first Running, and those are slow."""
        is_running = request.target.endswith("/set_state") and "/flow_runs/" in request.target
        if not (self.slow_s and is_running and b'"RUNNING"' in request.body) or request.target in self.late:
            return False
        self.late.add(request.target)
        return True

    async def passing(self, chunk: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether these bytes of an answer go on as they are. Where they are swallowed, nobody hears until it is over."""
        how = self._fault.how if self._fault else None
        if how in ("silent", "swallows"):
            await self._well.wait()
            _reset(writer)
        elif how == "cuts":
            writer.write(chunk[: len(chunk) // 2])
            await writer.drain()
            _reset(writer)
        elif how == "loses":
            _reset(writer)
        else:
            return True
        return False

    async def taking(self) -> bool:
        """Whether what comes is passed on to the server; if not, nobody hears until it is over."""
        if self._fault and self._fault.how in ("silent", "swallows"):
            await self._well.wait()
            return False
        return True


@dataclass
class _Connection:
    """A client's connection, and one of our own to the server for it."""

    front: Front
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    answering: "asyncio.Task[None] | None" = None
    is_late: bool = False
    is_answered: bool = True
    is_socket: bool = False

    async def serve(self) -> None:
        try:
            while request := await _request(self.reader):
                if not await self.front.taking():
                    _reset(self.writer)
                    return
                if not await self._call(request):
                    return
        finally:
            if self.answering:
                self.answering.cancel()
            if self.server:
                self.server.close()

    async def _call(self, request: _Request) -> bool:
        """Whether the connection goes on."""
        answer = self.front.answered_here(request)
        if answer is not None:
            self.writer.write(answer)
            await self.writer.drain()
            return True
        self.is_late = self.front.is_late(request)
        await asyncio.sleep(self.front.slow_s * self.is_late)
        server = await self._server()
        self.is_answered, self.is_socket = False, bool(request.header(b"upgrade"))
        server.write(request.encoded("/api" + request.target.removeprefix(self.front.prefix), b"authorization"))
        await server.drain()
        if not self.is_socket:
            return True
        while (chunk := await self.reader.read(_CHUNK_BYTES)) and await self.front.taking():
            server.write(chunk)
            await server.drain()
        return False

    async def _server(self) -> asyncio.StreamWriter:
        if self.server is None:
            at = urlsplit(self.front.server)
            answers, self.server = await asyncio.open_connection(at.hostname, at.port)
            self.answering = asyncio.create_task(self._answers(answers), name="answers")
        return self.server

    async def _answers(self, answers: asyncio.StreamReader) -> None:
        try:
            while chunk := await answers.read(_CHUNK_BYTES):
                self.is_answered = True
                if self.is_late:
                    self.front.landed.append(int(chunk.split(b" ", 2)[1]))
                    self.is_late = False
                if not await self.front.passing(chunk, self.writer):
                    return
                self.writer.write(chunk)
                await self.writer.drain()
        except OSError:
            self.writer.close()  # the client went
            return
        if self.is_answered and not self.is_socket and self.server:
            self.server.close()
            self.server = None  # the server closes what was idle for 5 s; the client need not be in the way of that
        else:
            self.writer.close()


@contextlib.contextmanager
def serving(front: Front) -> Iterator[Front]:
    """The proxy in a thread of its own; `front.url` is the API's address behind it."""
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        front._loop = asyncio.get_running_loop()
        await front.listen()
        front._well.set()
        ready.set()
        await asyncio.to_thread(over.wait)
        await front.end()
        front._well.set()
        front._cut_all()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="front")
    thread.start()
    ready.wait(_GIVES_UP_S)
    try:
        yield front
    finally:
        over.set()
        thread.join(_GIVES_UP_S)


async def _request(reader: asyncio.StreamReader) -> _Request | None:
    """The next call; None when there is none. Raises ValueError for what is no HTTP, or has no Content-Length."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    method, target, _ = first.decode("latin-1").split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    request = _Request(method, target, headers, b"")
    if request.header(b"transfer-encoding"):
        raise ValueError("a body without Content-Length, which Prefect Cloud does not take either")
    body = await reader.readexactly(int(request.header(b"content-length") or 0))
    return request._replace(body=body)


def _answer(status: int, body: bytes, retry_after_s: float | None = None) -> bytes:
    asked = f"Retry-After: {retry_after_s:g}\r\n" if retry_after_s is not None else ""
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\n{asked}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by RST."""
    raw = writer.transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):  # None: the other side was faster
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _black_hole(port: int) -> list[socket.socket]:
    """A port on which no packet is answered: its queue of connections is full, so that the kernel drops all that come."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((_LOOPBACK, port))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(_FILLERS)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex((_LOOPBACK, port))
    return [listener, *fillers]
