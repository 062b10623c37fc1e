"""A server without manners, on a Unix socket."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def rude(reply: bytes | None, *, calls_per_connection: int = 1) -> AsyncIterator[tuple[Path, list[bytes]]]:
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
