"""Work that may be called off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The work was called off before it was done."""


async def unless(asked: asyncio.Event, work: Coroutine[Any, Any, T], *, name: str) -> T:
    """
    Do the work, unless `asked` is set first: then Interrupted.

    Whatever happens, the work has ended when this returns; work that was done counts even if it was called off.
    """
    if asked.is_set():
        work.close()
        raise Interrupted
    doing = asyncio.create_task(work, name=name)
    waiting = asyncio.create_task(asked.wait(), name=f"{name}: called off?")
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        doing.cancel()
        waiting.cancel()
        await asyncio.wait((doing, waiting))
    if doing.cancelled():
        raise Interrupted
    return doing.result()


async def to_its_end(work: Coroutine[Any, Any, T], *, name: str, timeout_s: float) -> T:
    """
    Do the work to its end, even if we are cancelled meanwhile: then for at most `timeout_s`.

    The cancellation comes after all, at the next wait.
    """
    doing = asyncio.create_task(work, name=name)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait((doing,), timeout=timeout_s)
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))
            raise
        us = asyncio.current_task()
        assert us is not None
        us.cancel()
        return doing.result()
