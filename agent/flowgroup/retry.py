"""The one policy for trying again: full jitter, what the other side asked for, and a deadline."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from flowgroup.errors import Transient

T = TypeVar("T")


def pause_s(tries: int, asked_s: float | None, *, base_s: float = 0.2, cap_s: float = 30.0) -> float:
    """
    How long to wait after `tries` failures (1, 2, …): full jitter over a doubling span.

    When the other side asked for a time, at least that, and up to a quarter more so that callers do not come back together.
    """
    if asked_s is not None:
        return min(asked_s, 300.0) * (1 + 0.25 * random.random())  # noqa: S311
    return random.uniform(0.0, min(cap_s, base_s * 2 ** min(tries, 16)))  # noqa: S311


def _wait(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    return pause_s(state.attempt_number, failure.retry_after_s if isinstance(failure, Transient) else None)


async def until(call: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
    """Try `call` again while it raises Transient, for at most `timeout_s` seconds; then let the last Transient out."""
    clock = asyncio.get_running_loop().time  # tenacity would use the real one, which tests cannot move
    deadline = clock() + timeout_s
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Transient),
        wait=_wait,
        stop=lambda _: clock() >= deadline,
        sleep=asyncio.sleep,
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError("tenacity neither returned nor raised")  # pragma: no cover
