"""Delete clusters that nobody needs any more. A cluster made for one run goes as soon as the run has ended."""

from collections.abc import Callable
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.wake import Wake
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName

_LOOK_EVERY_S = 1.0


class Clusters(Protocol):
    def idle(self) -> list[ClusterName]: ...
    async def delete_if_idle(self, name: ClusterName) -> None: ...


async def reap(clusters: Clusters, wake: Wake, moved: Callable[[], None]) -> None:
    """Without end. `wake` rings when a lease is given back."""
    while True:
        moved()
        for name in clusters.idle():
            try:
                await clusters.delete_if_idle(name)
            except FlowgroupError as exc:  # it is still idle at the next look
                log.get().warning("cluster_not_deleted", cluster=name, reason=str(exc))
        await wake.wait(_LOOK_EVERY_S)
