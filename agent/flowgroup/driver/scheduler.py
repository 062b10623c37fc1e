"""Whether the group's Dask scheduler answers, and where."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

from flowgroup.errors import Permanent

_LOOK_S = 0.05
_TIMEOUT_S = 300.0
_WATCH_S = 0.5
_MISSED = 2
_ANSWER_S = 5.0


async def address(scheduler_file: Path) -> str:
    """The scheduler's address, once it has written its file and takes connections. Raises Permanent after 5 minutes."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                found = _written(scheduler_file)
                if found and await _answers(found):
                    return found
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as exc:
        raise Permanent(f"the Dask scheduler did not answer within {_TIMEOUT_S:.0f} s; see scheduler.log") from exc


async def gone(found: str) -> None:
    """Return when the scheduler has not taken a connection for some seconds."""
    missed = 0
    while missed < _MISSED:
        await asyncio.sleep(_WATCH_S)
        missed = 0 if await _answers(found) else missed + 1


def _written(scheduler_file: Path) -> str | None:
    try:
        return str(json.loads(scheduler_file.read_text())["address"])
    except (OSError, ValueError, KeyError):
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
