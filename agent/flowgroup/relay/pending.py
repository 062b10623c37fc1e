"""
Calls that change something, and that the API may still carry out: never sent again while the first is under way.

A caller is told to wait after some seconds, and then sends its call again. An API that was merely slow (SQLite waits
up to a minute for its lock) would carry out both, the first one late: a Running that lands on the Completed of its own
run. So the first stays under way, and the same call, sent again, gets its answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

import httpx

from flowgroup.errors import Transient

Answer = tuple[httpx.Response, bytes | None]
CARRIED_OUT_WITHIN_S = 65.0
_KEPT_S = 30.0
_MOST = 100  # each holds one of the connections to the API


class Pending:
    """`most` calls are left under way at once; a call beyond is given up, as one that only reads is."""

    def __init__(self, *, most: int = _MOST, kept_s: float = _KEPT_S) -> None:
        self._most = most
        self._kept_s = kept_s
        self._left: dict[Hashable, deque[asyncio.Task[Answer]]] = {}
        self._count = 0

    async def answer(
        self, call: Hashable, exchange: Callable[[], Coroutine[Any, Any, Answer]], *, wait_s: float
    ) -> Answer:
        """
        The answer of `exchange`, or of the same call that was left under way before.

        `call` is equal for equal calls. Raises Transient when there is none within `wait_s` seconds, and what
        `exchange` raises. Two equal calls that come together are two calls: only one that its caller has given up is
        taken up again, and only once.
        """
        task = self._taken_up(call) or asyncio.create_task(exchange(), name="call to the API")
        try:
            await asyncio.wait({task}, timeout=wait_s)
        except asyncio.CancelledError:  # the relay stops
            task.cancel()
            raise
        if task.done():
            return task.result()
        self._leave(call, task)
        raise Transient(f"no answer within {wait_s:g} s")

    def _taken_up(self, call: Hashable) -> asyncio.Task[Answer] | None:
        left = self._left.get(call)
        if not left:
            return None
        task = left[0]
        self._drop(call, task)
        return task

    def _leave(self, call: Hashable, task: asyncio.Task[Answer]) -> None:
        if self._count >= self._most:
            task.cancel()
            return
        self._count += 1
        self._left.setdefault(call, deque()).append(task)
        task.add_done_callback(lambda done: self._ended(call, done))

    def _ended(self, call: Hashable, task: asyncio.Task[Answer]) -> None:
        """An answer is kept for its caller for a while; trouble is not: the call may be sent again at once."""
        if task.cancelled() or task.exception() is not None or task.result()[0].is_server_error:
            self._drop(call, task)
        else:
            asyncio.get_running_loop().call_later(self._kept_s, self._drop, call, task)

    def _drop(self, call: Hashable, task: asyncio.Task[Answer]) -> None:
        left = self._left.get(call)
        if left is None or task not in left:
            return
        left.remove(task)
        self._count -= 1
        if not left:
            del self._left[call]
