"""Say that we live, so that Prefect's UI shows the worker online and the pool ready."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from flowgroup import log
from flowgroup.errors import Permanent, Transient
from flowgroup.retry import pause_s


class Api(Protocol):
    async def heartbeat(self, worker: str, interval_s: float) -> None: ...


async def beat(api: Api, worker: str, interval_s: float, moved: Callable[[], None]) -> None:
    """Without end. After a beat that failed the next one comes sooner."""
    failures = 0
    while True:
        moved()
        try:
            await api.heartbeat(worker, interval_s)
            failures = 0
        except (Transient, Permanent) as exc:
            failures += 1
            said = log.get().warning if failures == 1 else log.get().debug
            said("heartbeat_missed", reason=str(exc))
        await asyncio.sleep(min(interval_s, 1.0 + pause_s(failures, None)) if failures else interval_s)
