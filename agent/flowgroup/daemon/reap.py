"""
Delete clusters that nobody needs any more, and look after those that somebody does.

A cluster made for one run goes as soon as the run has ended. To look at a cluster is what lets its backend start workers
again that have died; what else is wrong with it is said by whoever waits for it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.wake import Wake
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName

_LOOK_EVERY_S = 1.0
_LOOK_AFTER_S = 10.0


class Clusters(Protocol):
    def idle(self) -> list[ClusterName]: ...
    def names(self) -> list[ClusterName]: ...
    async def delete_if_idle(self, name: ClusterName) -> None: ...
    async def look(self, name: ClusterName) -> str | None: ...


async def reap(
    clusters: Clusters, wake: Wake, moved: Callable[[], None], settled: Callable[[], bool] = lambda: True
) -> None:
    """
    Without end. `wake` rings when a lease is given back. Until it is `settled` what a former daemon left is on which clusters,
    each of them may be one that carries a run.
    """
    clock = asyncio.get_running_loop().time
    looked_at = clock()
    while True:
        moved()
        if clock() - looked_at > _LOOK_AFTER_S:
            looked_at = clock()
            await _look_after(clusters)
        # Together: each takes as long as its processes take to end, which elsewhere may be half a minute.
        if settled():
            await asyncio.gather(*(_delete(clusters, name) for name in clusters.idle()))
        await wake.wait(_LOOK_EVERY_S)


async def _delete(clusters: Clusters, name: ClusterName) -> None:
    try:
        await clusters.delete_if_idle(name)
    except FlowgroupError as exc:  # it is still idle at the next look
        log.get().warning("cluster_not_deleted", cluster=name, reason=str(exc))


async def _look_after(clusters: Clusters) -> None:
    for name in clusters.names():
        await clusters.look(name)
