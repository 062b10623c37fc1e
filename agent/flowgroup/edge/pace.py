"""
How many calls may be under way at once: learnt from the answers.

A server over SQLite does best with one writer at a time and answers 503 to the others; one over Postgres, or Cloud far
away, does best with many. So: a little wider after every success, half as wide after every refusal.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowgroup.errors import Transient


class Pace:
    def __init__(self, widest: int) -> None:
        self._widest = widest
        self._width = min(4.0, widest)
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def width(self) -> int:
        return int(self._width)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it during the block. A Transient that leaves the block is a refusal."""
        await self._enter()
        try:
            yield
            self._width = min(self._widest, self._width + 1 / self._width)
        except Transient:
            self._width = max(1.0, self._width / 2)
            raise
        finally:
            self._busy -= 1
            self._wake()

    async def _enter(self) -> None:
        while self._busy >= self.width:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake()  # in case it was our turn
                raise
        self._busy += 1
        self._wake()

    def _wake(self) -> None:
        """Let in who waits longest, if there is room."""
        while self._waiting and self._busy < self.width:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
