"""
The lease of a cluster: when a daemon last noted on its DaskCluster that it lives, and whether that is too long ago.

All times are of the API server's clock, on both sides: nodes' clocks may be minutes apart.
"""

import asyncio
from collections.abc import Sequence

from flowgroup.edge.kubernetes import seen
from flowgroup.edge.kubernetes.client import DASK_CLUSTERS, Client, NotThere
from flowgroup.edge.kubernetes.level import Level
from flowgroup.edge.kubernetes.names import GOOD_FOR_S, RENEWED_AT
from flowgroup.edge.kubernetes.seen import Owner
from flowgroup.errors import FlowgroupError, Transient
from flowgroup.model.ids import ClusterName

_AT_ONCE = 5  # what runs wait for has the same connections
_MISSED_MAX = 3


async def renew(client: Client, level: Level, names: Sequence[ClusterName], *, every_s: float) -> None:
    """
    Note on each that it is kept: one small call for each, but for those that are gone or going.

    Raises the first trouble, after all were tried.
    """
    if not level.at:
        raise Transient("Kubernetes' API does not say what time it is")
    noted = {RENEWED_AT: seen.moment(level.at), GOOD_FOR_S: str(round(_MISSED_MAX * every_s))}
    room, troubles = asyncio.Semaphore(_AT_ONCE), list[FlowgroupError]()

    async def note(name: ClusterName) -> None:
        async with room:
            try:
                await client.merge(DASK_CLUSTERS, name, {"metadata": {"annotations": noted}})
            except NotThere:
                return
            except FlowgroupError as exc:
                troubles.append(exc)

    there = [name for name in names if (owner := level.owners.get(name)) and not owner.is_leaving]
    await asyncio.gather(*map(note, there))
    if troubles:
        raise troubles[0]


def is_over(owner: Owner, now: float, *, after_s: float) -> bool:
    """Whether its daemon has been silent for longer than `after_s`, and for longer than its last word was good for."""
    return now - owner.renewed_at > max(after_s, owner.good_for_s)
