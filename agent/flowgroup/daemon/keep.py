"""
Note again and again that this daemon lives and keeps its clusters: a lease, which ends by itself when the daemon does.

Whoever removes clusters that no daemon keeps goes by it. A renewal that fails is tried again soon.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from flowgroup import log
from flowgroup.errors import FlowgroupError

_AGAIN_S = 5.0


class Clusters(Protocol):
    async def renew(self) -> None: ...


async def keep(clusters: Clusters, every_s: float, moved: Callable[[], None]) -> None:
    """Without end, and first at once: a former daemon's clusters may have waited long."""
    is_failing = False
    while True:
        moved()
        try:
            await clusters.renew()
            is_failing = False
        except FlowgroupError as exc:
            said = log.get().debug if is_failing else log.get().warning
            said("clusters_not_renewed", reason=str(exc))
            is_failing = True
        await asyncio.sleep(min(every_s, _AGAIN_S) if is_failing else every_s)
