"""Answers that are good for a few seconds, fetched once however many ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_MAX_ENTRIES = 4096


class Cached(Generic[K, V]):
    """`fetch(key)`, remembered for `ttl_s` seconds. Failures are not remembered."""

    def __init__(self, fetch: Callable[[K], Awaitable[V]], *, ttl_s: float) -> None:
        self._fetch = fetch
        self._ttl_s = ttl_s
        self._known: dict[K, tuple[float, V]] = {}
        self._locks: dict[K, asyncio.Lock] = {}

    async def get(self, key: K) -> V:
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            until, value = self._known.get(key, (0.0, None))
            if value is None or asyncio.get_running_loop().time() >= until:
                value = await self._fetch(key)
                self._keep(key, value)
            return value

    def drop(self, key: K | None = None) -> None:
        """Forget what is known about `key`, or everything."""
        if key is None:
            self._known.clear()
        else:
            self._known.pop(key, None)

    def _keep(self, key: K, value: V) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._known) >= _MAX_ENTRIES:
            self._known = {k: kept for k, kept in self._known.items() if kept[0] > now}
            self._locks = {k: lock for k, lock in self._locks.items() if lock.locked() or k in self._known}
        self._known[key] = (now + self._ttl_s, value)
