"""A server without manners, on a Unix socket."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def rude(reply: bytes | None, *, calls_per_connection: int = 1) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """A server which answers each connection's first calls with these bytes, and hangs up."""
    calls: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rude.sock"
        async with await asyncio.start_unix_server(_serving(reply, calls_per_connection, calls), str(path)):
            yield path, calls


@asynccontextmanager
async def rude_proxy(reply: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The same at an address: `HOST:PORT`."""
    calls: list[bytes] = []
    async with await asyncio.start_server(_serving(reply, 1, calls), "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", calls


def _serving(
    reply: bytes | None, calls_per_connection: int, calls: list[bytes]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(calls_per_connection):
            calls.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(reply or b"")
            await writer.drain()
        writer.close()

    return serve
