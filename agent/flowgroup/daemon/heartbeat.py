"""
Say that we live, so that Prefect's UI shows the worker online and the pool ready.

It is here that a pool which somebody has deleted is missed first, and made again: a daemon that serves nothing helps nobody,
and a restart would make it too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from flowgroup import log
from flowgroup.edge.wire import NotFound
from flowgroup.errors import Permanent, Transient
from flowgroup.retry import pause_s


class Api(Protocol):
    async def heartbeat(self, worker: str, interval_s: float) -> None: ...


async def beat(
    api: Api, worker: str, interval_s: float, moved: Callable[[], None], remake: Callable[[], Awaitable[None]]
) -> None:
    """Without end. After a beat that failed the next one comes sooner. `remake` makes the pool again."""
    failures = 0
    while True:
        moved()
        try:
            await _once(api, worker, interval_s, remake)
            failures = 0
        except (Transient, Permanent) as exc:
            failures += 1
            said = log.get().warning if failures == 1 else log.get().debug
            said("heartbeat_missed", reason=str(exc))
        await asyncio.sleep(min(interval_s, 1.0 + pause_s(failures, None)) if failures else interval_s)


async def _once(api: Api, worker: str, interval_s: float, remake: Callable[[], Awaitable[None]]) -> None:
    try:
        await api.heartbeat(worker, interval_s)
    except NotFound as exc:
        log.get().error(
            "pool_gone",
            reason=str(exc),
            then="made again; deployments must be deployed again, or given it in Prefect's UI",
        )
        await remake()
        await api.heartbeat(worker, interval_s)
