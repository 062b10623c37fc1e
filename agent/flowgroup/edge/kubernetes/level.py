"""
What Kubernetes says of all clusters of a pool at once: asked at most once a second, however many ask.

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


@dataclass(frozen=True, slots=True)
class Level:
    """`at` is when Kubernetes said it, by its own clock: seconds since 1970."""

    at: float
    owners: dict[ClusterName, Owner] = field(default_factory=dict)
    pods: dict[tuple[ClusterName, str], Pod] = field(default_factory=dict)


class Levels:
    def __init__(self, client: Client, pool_label: str) -> None:
        self._client = client
        self._pool_label = pool_label
        self._cached: Cached[None, Level] = Cached(lambda _: self._fetch(), ttl_s=_GOOD_S)

    async def now(self) -> Level:
        """At most a second old, and never of before a `drop`."""
        return await self._cached.get(None)

    def drop(self) -> None:
        """Something was changed: what is known, or on its way, is of before."""
        self._cached.drop()

    async def _fetch(self) -> Level:
        ours = selector(self._pool_label)
        # Pods first: a cluster that is made meanwhile is then there without pods, and not the other way round.
        pods, owners = await asyncio.gather(
            self._client.listed(PODS, f"{ours},{ROLE} in ({DRIVER},{SCHEDULER})"),
            self._client.listed(DASK_CLUSTERS, ours, metadata_only=True),
        )
        found = [seen.pod(item) for item in pods.items]
        # Of two pods of one role the one that stays: a scheduler that is being replaced has both.
        found.sort(key=lambda pod: pod.leaves_at is None)
        return Level(
            at=owners.at,
            owners={owner.name: owner for owner in map(seen.owner, owners.items)},
            pods={(pod.cluster, pod.role): pod for pod in found},
        )
