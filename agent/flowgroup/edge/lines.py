"""
Lines between rooms: connections that are dialled, or accepted, over a Unix socket or TLS.

Whoever connects is a stranger until it has shown who it is. Strangers cost little and are few: for one too many the one
that has been silent for the longest is cut off, so that a thousand silent connections keep nobody out.
"""

import asyncio
import contextlib
import socket
import ssl
import stat
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter, sslproto
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flowgroup import log
from flowgroup.edge import tls
from flowgroup.errors import Refused, Transient
from flowgroup.model.endpoint import Endpoint, Listen

HANDSHAKE_TIMEOUT_S = 10.0
GOODBYE_S = 1.0  # how long a connection's end may take
_BACKLOG = 512
_MOST_STRANGERS = 128
_CHUNK_BYTES = 64 * 1024
_PAUSE_S = 0.5
# A host that has gone without a word is noticed after about this time, whether we send or not.
_LOST_S = 20
_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": _LOST_S * 1000}

# What asyncio sets aside for each connection with TLS: 256 KiB of its own accord, a quarter of a GiB for a thousand drivers.
sslproto.SSLProtocol.max_size = 16 * 1024  # a record of TLS is not larger


P = TypeVar("P", bound=asyncio.BaseProtocol)


async def dial(to: Endpoint, *, limit_bytes: int) -> tuple[StreamReader, StreamWriter]:
    """
    A line to `to`. `limit_bytes` is the longest line that it may send.

    Raises Transient, with the cause and what to do about it; Refused when the authorities' file cannot be read.
    """
    reader = StreamReader(limit=limit_bytes)
    transport, protocol = await dialled(to, lambda: StreamReaderProtocol(reader))
    return reader, StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def dialled(to: Endpoint, make: Callable[[], P]) -> tuple[asyncio.Transport, P]:
    """A connection to `to` with the protocol that `make` gives. Raises as `dial`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            if to.socket:
                return await loop.create_unix_connection(make, str(to.socket))
            transport, protocol = await loop.create_connection(make, to.host, to.port, ssl=tls.trusting(to.ca))
    except TimeoutError as exc:
        raise Transient(f"{to} does not answer within {HANDSHAKE_TIMEOUT_S:g} s") from exc
    except OSError as exc:
        raise Transient(tls.explained(exc, to) or f"{to} cannot be reached: {exc}") from exc
    _notice_silence(transport.get_extra_info("socket"))
    return transport, protocol


def hang_up(writer: StreamWriter) -> None:
    """Close, and do not wait for the other side for long: it may be gone."""
    writer.close()
    asyncio.get_running_loop().call_later(GOODBYE_S, writer.transport.abort)


def bound(listen: Listen) -> socket.socket:
    """
    The listening socket. A Unix socket is for its owner alone and replaces one that is left over.

    Raises Refused when it cannot be made.
    """
    return _unix(listen) if isinstance(listen, Path) else tcp(listen.host, listen.port)


def tcp(host: str, port: int) -> socket.socket:
    """A listening socket on `host`; `::` is every address, IPv4 included. Raises Refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only then; without it every answer waits 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except OSError as exc:
        made.close()
        raise Refused(f"cannot listen on {host}:{port}: {exc}") from exc
    made.setblocking(False)
    return made


def _unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
        made.bind(str(path))
        path.chmod(0o600)
        made.listen(_BACKLOG)
    except OSError as exc:
        made.close()
        raise Refused(f"cannot listen on {path}: {exc}. Set FLOWGROUP_HOME to a short path on a local disk.") from exc
    made.setblocking(False)
    return made


async def accept(listener: socket.socket, take: Callable[[socket.socket], object]) -> None:
    """Give each connection to `take`, without end. Owns none of them."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, _ = await loop.sock_accept(listener)
        except OSError as exc:  # it has gone again, or too many files are open
            log.get().warning("connection_not_accepted", reason=str(exc))
            await asyncio.sleep(_PAUSE_S)
        else:
            take(accepted)
            # One at a time: whoever waits in the kernel's queue would be let in at once, and keep those who are there waiting.
            await asyncio.sleep(0)


async def shaken(
    accepted: socket.socket, make: Callable[[], P], secured: ssl.SSLContext | None
) -> tuple[asyncio.Transport, P]:
    """
    An accepted connection with the protocol that `make` gives, after the handshake if there is TLS. Owns `accepted`.

    Raises OSError when the other side does not speak TLS, refuses our certificate, or is too slow.
    """
    loop = asyncio.get_running_loop()
    if secured is None:
        return await loop.connect_accepted_socket(make, accepted)
    _notice_silence(accepted)
    return await loop.connect_accepted_socket(
        make,
        accepted,
        ssl=secured,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
        ssl_shutdown_timeout=GOODBYE_S,
    )


@asynccontextmanager
async def opened(
    accepted: socket.socket, secured: ssl.SSLContext | None
) -> AsyncIterator[tuple["Lines", StreamWriter]]:
    """The same as lines and a writer, which is closed after the block."""
    reader = StreamReader(limit=_CHUNK_BYTES)
    transport, protocol = await shaken(accepted, lambda: StreamReaderProtocol(reader), secured)
    writer = StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    try:
        yield Lines(reader), writer
    finally:
        hang_up(writer)


class Lines:
    """What a peer says, line by line. A line may be as long as its reader says, so that a stranger cannot fill our memory."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._parts: list[bytes] = []
        self._rest = b""

    async def next(self, *, limit_bytes: int) -> bytes:
        """The next line, its newline included; what is left at the end of all, then b"". Raises ValueError for one too long."""
        size = 0
        while b"\n" not in self._rest:
            self._parts.append(self._rest)
            size, self._rest = size + len(self._rest), b""
            if size > limit_bytes:
                raise ValueError(f"a line has more than {limit_bytes} bytes")
            self._rest = await self._reader.read(_CHUNK_BYTES)
            if not self._rest:
                break
        end, newline, self._rest = self._rest.partition(b"\n")
        line = b"".join((*self._parts, end, newline))
        self._parts.clear()
        return line


class Strangers:
    """Tasks whose peers have not shown who they are: at most `most`; for one more the oldest is cancelled."""

    def __init__(self, most: int = _MOST_STRANGERS) -> None:
        self._most = most
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they came

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def one(self) -> Iterator[Callable[[], None]]:
        """The task that runs this is one of them during the block, or until it calls what it gets."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= self._most:
            self._cut_off(next(iter(self._tasks)))
        self._tasks[task] = None
        try:
            yield lambda: self._tasks.pop(task, None)
        finally:
            self._tasks.pop(task, None)

    def cut_off(self) -> None:
        """Cancel all of them."""
        for task in list(self._tasks):
            self._cut_off(task)

    def _cut_off(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        task.cancel()


def notices_silence() -> list[tuple[int, int, int]]:
    """A connection's options with which the kernel notices a peer that has gone without a word."""
    there = [(getattr(socket, name, None), value) for name, value in _PROBES.items()]  # not every system has them all
    probes = [(socket.IPPROTO_TCP, option, value) for option, value in there if option is not None]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *probes]


def _notice_silence(connection: socket.socket) -> None:
    for option in notices_silence():
        connection.setsockopt(*option)
