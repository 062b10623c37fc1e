"""
What operators ask of clusters, carried out: `flowgroup cluster reset` and `scale`.

In: what is written on the clusters themselves, a folder's file or a DaskCluster's annotation: who may write there may ask, so
that the daemon listens to nobody for it. It is a level: an ask outlives the daemon, and goes with its cluster.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.scale import Group, Wish
from flowgroup.errors import FlowgroupError
from flowgroup.model.clusters import Ask
from flowgroup.model.ids import ClusterName

_LOOK_S = 3.0


class Backend(Protocol):
    async def asks(self) -> Mapping[ClusterName, Ask]:
        """What is asked of clusters that exist. May raise Transient or Permanent."""
        ...


class Clusters(Protocol):
    def names(self) -> list[ClusterName]: ...
    def drain(self, names: Collection[ClusterName]) -> None: ...


class Scale(Protocol):
    def ask(self, asked: Mapping[Group, Wish]) -> None: ...


async def follow(
    backend: Backend,
    clusters: Clusters,
    scale: Scale,
    moved: Callable[[], None],
    now: Callable[[], float] = time.time,
) -> None:
    """Without end. Nothing is asked for while there are no clusters."""
    while True:
        moved()
        if clusters.names():
            try:
                asks = await backend.asks()
            except FlowgroupError as exc:  # what was asked before holds
                log.get().warning("asks_not_seen", reason=str(exc))
            else:
                clusters.drain({name for name, ask in asks.items() if ask.reset})
                scale.ask(_scaled(asks, now()))
        await asyncio.sleep(_LOOK_S)


def _scaled(asks: Mapping[ClusterName, Ask], now: float) -> dict[Group, Wish]:
    return {
        (name, group): (count, ask.until)
        for name, ask in asks.items()
        if now < ask.until
        for group, count in ask.scale.items()
    }
