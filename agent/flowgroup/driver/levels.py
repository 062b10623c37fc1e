"""
What the Dask scheduler says of the groups of workers (`scaling.py`), as the desk hears it. The desk imports no Dask.

What is not heard is not known: the level is empty while nobody tells it, and then nobody changes anything.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from flowgroup import log
from flowgroup.model.orders import GroupLevel

Levels = dict[str, GroupLevel]
_LEVELS: TypeAdapter[Levels] = TypeAdapter(Levels)
_AGAIN_S = 0.25
_SILENT_S = 30.0
_LIMIT_BYTES = 4 * 1024 * 1024


async def follow(at: str, heard: Callable[[Levels], None]) -> None:
    """
    Without end. `at` is `tcp://host:port`, or the path of a file with the port at this host; `heard` takes each level.
    """
    said = None
    while True:
        try:
            await _listen(*_where(at), heard)
        except (OSError, ValueError, TimeoutError) as exc:
            if said != (said := str(exc)):
                log.get().info("levels_not_heard", at=at, reason=said, then="trying again")
        heard({})
        await asyncio.sleep(_AGAIN_S)


async def first_worker(at: str) -> None:
    """
    Return when a worker is there, however long that takes: it may wait for a node, and the daemon says so meanwhile. Also when
    nobody tells the levels for a while: then it is not to be known.
    """
    there, unheard_since = asyncio.Event(), asyncio.get_running_loop().time()

    def heard(groups: Levels) -> None:
        nonlocal unheard_since
        if groups:
            unheard_since = inf
        if any(group.there for group in groups.values()):
            there.set()

    following = asyncio.create_task(follow(at, heard), name="first worker")
    try:
        while not there.is_set() and asyncio.get_running_loop().time() - unheard_since < _SILENT_S:
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await there.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _listen(host: str, port: int, heard: Callable[[Levels], None]) -> None:
    reader, writer = await asyncio.open_connection(host, port, limit=_LIMIT_BYTES)
    try:
        while True:
            async with asyncio.timeout(_SILENT_S):
                line = await reader.readline()
            if not line:
                return
            heard(_LEVELS.validate_json(line))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _where(at: str) -> tuple[str, int]:
    if at.startswith("tcp://"):
        parts = urlsplit(at)
        return str(parts.hostname), int(parts.port or 0)
    return "127.0.0.1", int(Path(at).read_text())
