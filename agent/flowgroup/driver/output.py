"""A child's own output: kept on disk up to a bound, its last lines in memory for the state's message."""

import asyncio
import os
from collections import deque
from pathlib import Path

_TAIL_BYTES = 4096


class Output:
    """Reads one pipe until every writer has closed it, or `stop`."""

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    async def read(self, fd: int) -> None:
        """Until the end of the file. Owns `fd`."""
        reader = asyncio.StreamReader(limit=64 * 1024)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
        )
        written = 0
        try:
            with self._path.open("ab", 0) as kept:
                while chunk := await reader.read(64 * 1024):
                    self._remember(chunk)
                    written += len(chunk)
                    if written <= self._limit:
                        self._keep(kept.fileno(), chunk)
        finally:
            transport.close()

    @staticmethod
    def _keep(fd: int, chunk: bytes) -> None:
        try:
            os.write(fd, chunk)
        except OSError:  # a full disk costs the copy of the output, not the run
            return

    def _remember(self, chunk: bytes) -> None:
        self._tail.append(chunk[-_TAIL_BYTES:])
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes - len(self._tail[0]) >= _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())

    def tail(self, lines: int = 20) -> str:
        """The last lines, at most 4 KiB; what is not UTF-8 is replaced."""
        text = b"".join(self._tail)[-_TAIL_BYTES:].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        return "\n".join(text.splitlines()[-lines:])
