"""Work that may be called off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """The work was called off before it was done."""


async def unless(asked: asyncio.Event, work: Coroutine[Any, Any, T], *, name: str) -> T:
    """
    Do the work, unless `asked` is set first: then Interrupted.

    Whatever happens, the work has ended when this returns; work that was done counts even if it was called off.
    """
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
