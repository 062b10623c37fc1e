"""
What Kubernetes says of all clusters of a pool at once: asked at most once a second, however many ask; where clusters are many
more seldom, for it is the whole list.

Nothing is asked while nobody looks. Workers are not in it: of a large cluster they are nearly all that there is, and no worker
decides whether a cluster lives.
"""

import asyncio
from dataclasses import dataclass, field

from flowgroup.edge.cached import Cached
from flowgroup.edge.kubernetes import seen
from flowgroup.edge.kubernetes.client import DASK_CLUSTERS, PODS, Client
from flowgroup.edge.kubernetes.manifests import selector
from flowgroup.edge.kubernetes.names import DRIVER, ROLE, SCHEDULER
from flowgroup.edge.kubernetes.seen import Owner, Pod
from flowgroup.model.ids import ClusterName

_GOOD_S = 1.0
_PODS_PER_S = 200.0  # of two thousand, a list is 15 MB: every ten seconds


@dataclass(frozen=True, slots=True)
class Level:
    """`at` is when Kubernetes said it, by its own clock: seconds since 1970; `asked_at` when it was asked, by the loop's."""

    at: float
    asked_at: float = 0.0
    owners: dict[ClusterName, Owner] = field(default_factory=dict)
    pods: dict[tuple[ClusterName, str], Pod] = field(default_factory=dict)


class Levels:
    def __init__(self, client: Client, pool_label: str) -> None:
        self._client = client
        self._pool_label = pool_label
        self._cached: Cached[None, Level] = Cached(lambda _: self._fetch(), ttl_s=lambda _: self._good_s)
        self._changed: dict[ClusterName, float] = {}
        self._pods = 0

    @property
    def _good_s(self) -> float:
        return max(_GOOD_S, self._pods / _PODS_PER_S)

    async def now(self) -> Level:
        """At most a second old; of more than two hundred pods a second for each two hundred."""
        return await self._cached.get(None)

    def changed(self, name: ClusterName) -> None:
        """We have made or deleted something of this cluster: what is known of it, or on its way, is of before."""
        self._changed[name] = asyncio.get_running_loop().time()
        if self._good_s <= _GOOD_S:
            self._cached.drop()

    def is_of_before(self, level: Level, name: ClusterName) -> bool:
        """Whether the cluster was changed since this was asked: then it says nothing of it."""
        return self._changed.get(name, float("-inf")) > level.asked_at

    async def _fetch(self) -> Level:
        ours, asked_at = selector(self._pool_label), asyncio.get_running_loop().time()
        # Pods first: a cluster that is made meanwhile is then there without pods, and not the other way round.
        pods, owners = await asyncio.gather(
            self._client.each(PODS, f"{ours},{ROLE} in ({DRIVER},{SCHEDULER})", seen.pod),
            self._client.each(DASK_CLUSTERS, ours, seen.owner, metadata_only=True),
        )
        # Of two pods of one role the one that stays: a scheduler that is being replaced has both.
        found = sorted(pods.items, key=lambda pod: pod.leaves_at is None)
        self._pods = len(found)
        self._changed = {name: at for name, at in self._changed.items() if at > asked_at}
        return Level(
            at=owners.at,
            asked_at=asked_at,
            owners={owner.name: owner for owner in owners.items},
            pods={(pod.cluster, pod.role): pod for pod in found},
        )
