"""The relay's control API on a Unix socket: it records the level that it was told; and a daemon that tells it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgroup.daemon.attempts import Attempts


@contextlib.asynccontextmanager
async def extending(attempts: Attempts) -> AsyncIterator[None]:
    """Tell the relays which attempts are open, again and again."""
    task = asyncio.create_task(attempts.extend())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class FakeRelay:
    open: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    levels: list[set[str]] = field(default_factory=list)
    status: int = 204
    key: str = "key"

    @contextlib.asynccontextmanager
    async def serve(self, socket: Path) -> AsyncIterator[None]:
        tasks: set[asyncio.Task[None]] = set()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_unix_server(begin, str(socket))
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (
                        int(line.split(":")[1])
                        for line in head.lower().splitlines()
                        if line.startswith("content-length")
                    ),
                    0,
                )
                self._hear(head, await reader.readexactly(length))
                writer.write(f"HTTP/1.1 {self.status} -\r\nContent-Length: 0\r\n\r\n".encode())

    def _hear(self, head: str, body: bytes) -> None:
        method, path, _ = head.split("\r\n")[0].split(" ")
        assert f"Bearer {self.key}" in head
        self.calls.append((method, path))
        if self.status >= 300:
            return
        if method == "DELETE":
            self.open.pop(path.rpartition("/")[2], None)
        elif path == "/flowgroup/attempts":
            self.open = {one["attempt"]: one for one in json.loads(body)["attempts"]}
            self.levels.append(set(self.open))
