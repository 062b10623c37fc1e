"""Whether the group's Dask scheduler answers, and where."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

from flowgroup import log
from flowgroup.errors import Permanent, Refused

_LOOK_S = 0.05
_LOOK_ELSEWHERE_S = 0.5
_TIMEOUT_S = 300.0
_WATCH_S = 0.5
_ANSWER_S = 5.0
_SAID_EVERY_S = 30.0


async def written(scheduler_file: Path) -> str:
    """
    The address of a scheduler of this host, once it has written its file and takes connections.

    Raises Permanent after 5 minutes.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                found = _written(scheduler_file)
                if found and await _answers(found):
                    return found
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as exc:
        raise Permanent(f"the Dask scheduler did not answer within {_TIMEOUT_S:.0f} s; see scheduler.log") from exc


async def answering(address: str) -> None:
    """
    Return when the scheduler at `tcp://host:port` takes connections, however long that takes: its host may have to be
    made first, and the daemon knows until when somebody waits. Raises Refused for another address.
    """
    if not _is_address(address):
        raise Refused(f"{address!r} is no address of a Dask scheduler: it wants tcp://host:port (--scheduler)")
    loop = asyncio.get_running_loop()
    said_at = loop.time()
    while not await _answers(address):
        if loop.time() - said_at > _SAID_EVERY_S:
            said_at = loop.time()
            log.get().info("scheduler_waited_for", address=address)
        await asyncio.sleep(_LOOK_ELSEWHERE_S)


async def gone(address: str, *, after_s: float) -> None:
    """Return when the scheduler has taken no connection for `after_s` seconds, and for two looks at least."""
    loop = asyncio.get_running_loop()
    silent_since = None
    while True:
        await asyncio.sleep(_WATCH_S)
        began = loop.time()
        if await _answers(address):
            silent_since = None
        elif silent_since is None:
            silent_since = began
        elif loop.time() - silent_since >= after_s:
            return


def _is_address(address: str) -> bool:
    """Whether it is `tcp://host:port`."""
    try:
        parts = urlsplit(address)
        return parts.scheme == "tcp" and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        return False


def _written(scheduler_file: Path) -> str | None:
    try:
        return str(json.loads(scheduler_file.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it may be half written
        return None


async def _answers(found: str) -> bool:
    parts = urlsplit(found)
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
