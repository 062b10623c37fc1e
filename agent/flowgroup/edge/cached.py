"""Answers that are good for a while, fetched once however many ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_MAX_ENTRIES = 4096


class Cached(Generic[K, V]):
    """
    `fetch(key)`, remembered for `ttl_s` seconds. Failures are not remembered.

    `ttl_s` may be a function of the moment when the answer was fetched: it is asked at every look, so that what makes
    an answer lasting may also end.
    """

    def __init__(self, fetch: Callable[[K], Awaitable[V]], *, ttl_s: float | Callable[[float], float]) -> None:
        self._fetch = fetch
        self._ttl_s = ttl_s if callable(ttl_s) else lambda _: ttl_s
        self._known: dict[K, tuple[float, V]] = {}
        self._locks: dict[K, asyncio.Lock] = {}
        self._drops = 0

    async def get(self, key: K) -> V:
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if self.knows(key):
                return self._known[key][1]
            asked_at, drops = asyncio.get_running_loop().time(), self._drops
            value = await self._fetch(key)
            if drops == self._drops:  # else it may be of before the change for which all was dropped
                self._keep(key, asked_at, value)
            return value

    def knows(self, key: K) -> bool:
        """Whether `get` would answer without a fetch."""
        known = self._known.get(key)
        return known is not None and self._is_good(known[0])

    def drop(self, key: K | None = None) -> None:
        """Forget what is known about `key`, or everything; also what is on its way."""
        self._drops += 1
        if key is None:
            self._known.clear()
        else:
            self._known.pop(key, None)

    def _is_good(self, asked_at: float) -> bool:
        return asyncio.get_running_loop().time() < asked_at + self._ttl_s(asked_at)

    def _keep(self, key: K, asked_at: float, value: V) -> None:
        if len(self._known) >= _MAX_ENTRIES:
            self._known = {k: kept for k, kept in self._known.items() if self._is_good(kept[0])}
            self._locks = {k: lock for k, lock in self._locks.items() if lock.locked() or k in self._known}
        self._known[key] = (asked_at, value)
