"""
Whether a cluster that is not ready will ever have a worker.

One worker that comes is enough, and one that waits for its node may be it. Where all that there are end by what every other
try would end by, the run that waits has to hear it.
"""

from dataclasses import dataclass

from flowgroup import log
from flowgroup.edge.cached import Cached
from flowgroup.edge.kubernetes import diagnose, seen
from flowgroup.edge.kubernetes.budget import Budget
from flowgroup.edge.kubernetes.client import PODS, Client
from flowgroup.edge.kubernetes.manifests import selector
from flowgroup.edge.kubernetes.names import CLUSTER, ROLE, WORKER
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName

_GOOD_S = 5.0  # of a large cluster it is a long list


@dataclass
class Crew:
    client: Client
    pool_label: str

    def __post_init__(self) -> None:
        self._cached: Cached[ClusterName, str | None] = Cached(self._asked, ttl_s=_GOOD_S)
        self._budget = Budget()

    async def why_none(self, name: ClusterName) -> str | None:
        """Why no worker will ever come; None while one may, and where that cannot be seen, or not now."""
        if not self._cached.knows(name) and not self._budget.take():
            return None
        try:
            return await self._cached.get(name)
        except FlowgroupError as exc:
            log.get().warning("workers_not_seen", cluster=name, reason=str(exc))
            return None

    def drop(self, name: ClusterName) -> None:
        """The cluster is another one now, or none."""
        self._cached.drop(name)

    async def _asked(self, name: ClusterName) -> str | None:
        found = await self.client.listed(PODS, selector(self.pool_label, **{CLUSTER: name, ROLE: WORKER}))
        return diagnose.no_worker([seen.pod(item) for item in found.items])
