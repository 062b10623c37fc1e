"""
Keep the deployment's concurrency slot while a claimed run is on its way.

The API gives the slot for 300 s; a cluster may take longer to boot. Once the run is Running its engine renews.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from flowgroup import log
from flowgroup.errors import Permanent, Transient
from flowgroup.retry import pause_s

_RENEW_EVERY_S = 100.0


class Api(Protocol):
    async def renew_lease(self, lease: str) -> None: ...


@asynccontextmanager
async def renewed(api: Api, lease: str | None) -> AsyncIterator[Callable[[], None]]:
    """Renew the lease during the block, or until what this yields is called."""
    if lease is None:
        yield lambda: None
        return
    task = asyncio.create_task(_renew(api, lease), name=f"renew {lease}")
    try:
        yield lambda: _ignore(task.cancel())
    finally:
        task.cancel()
        await asyncio.wait([task])


def _ignore(_: object) -> None:
    """For callbacks that must return nothing."""


async def _renew(api: Api, lease: str) -> None:
    tries, wait_s = 0, _RENEW_EVERY_S
    while True:
        await asyncio.sleep(wait_s)
        try:
            await api.renew_lease(lease)
            tries, wait_s = 0, _RENEW_EVERY_S
        except Transient as exc:
            tries += 1
            wait_s = pause_s(tries, exc.retry_after_s)
        except Permanent as exc:  # the slot is another run's by now; the API decides when this one says Running
            log.get().warning("lease_lost", lease=lease, reason=str(exc))
            return
