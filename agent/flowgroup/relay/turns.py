"""How many calls of one run are under way at once: a run that asks for more waits for itself, and keeps nobody else waiting."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from flowgroup.errors import Transient

T = TypeVar("T")
_AT_ONCE = 50  # records, some milliseconds
_WAITING_FOR_EACH = 8  # so many calls may wait for each one under way; one more is sent away at once


async def in_between(items: Iterable[T], at_once: int = _AT_ONCE) -> AsyncIterator[T]:
    """These, and after each `at_once` of them whatever else there is to do has its turn."""
    for number, item in enumerate(items, 1):
        yield item
        if number % at_once == 0:
            await asyncio.sleep(0)


@dataclass(slots=True)
class _Line:
    free: asyncio.Semaphore
    there: int = 0


class Turns:
    """`most` at once of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[Hashable, _Line] = {}

    @asynccontextmanager
    async def turn(self, whose: Hashable, *, within_s: float) -> AsyncIterator[None]:
        """Wait for a turn, and have it during the block. Raises Transient when there is none in time, or too many wait."""
        line = self._lines.setdefault(whose, _Line(asyncio.Semaphore(self._most)))
        if line.there >= self._most * (1 + _WAITING_FOR_EACH):
            raise Transient(_TOO_MANY)
        line.there += 1
        try:
            await self._entered(line, within_s)
            try:
                yield
            finally:
                line.free.release()
        finally:
            line.there -= 1
            if not line.there:
                del self._lines[whose]

    @staticmethod
    async def _entered(line: _Line, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await line.free.acquire()
        except TimeoutError as exc:
            raise Transient(_TOO_MANY) from exc


_TOO_MANY = "this run has too many calls under way already"
