"""Say that we live, so that Prefect's UI shows the worker online and the pool ready."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from flowgroup import log
from flowgroup.errors import Permanent, Transient


class Api(Protocol):
    async def heartbeat(self, worker: str, interval_s: float) -> None: ...


async def beat(api: Api, worker: str, interval_s: float, moved: Callable[[], None]) -> None:
    """Without end. A beat that fails is not made up for: the next one comes."""
    is_missed = False
    while True:
        moved()
        try:
            await api.heartbeat(worker, interval_s)
            is_missed = False
        except (Transient, Permanent) as exc:
            said = log.get().debug if is_missed else log.get().warning
            said("heartbeat_missed", reason=str(exc))
            is_missed = True
        await asyncio.sleep(interval_s)
