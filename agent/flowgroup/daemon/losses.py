"""
Drivers ask why a worker or their scheduler ended, and the backend knows.

In: the count of questions in a driver's status. Out: a Losses with all that is known, sent back. A driver that asks
nothing costs nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.view import View
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import Losses

_LOOK_S = 0.5
_TIMEOUT_S = 5.0


class Backend(Protocol):
    async def losses(self, name: ClusterName) -> dict[str, str]:
        """Why the scheduler and workers ended that did lately, by the names that Dask knows them by. May raise Transient."""
        ...


class Clusters(Protocol):
    def names(self) -> list[ClusterName]: ...


class Drivers(Protocol):
    def view(self, cluster: ClusterName) -> View: ...


@dataclass(slots=True)
class Answers:
    """`_answered`: how many questions of which process have been answered, by cluster."""

    backend: Backend
    clusters: Clusters
    drivers: Drivers
    _answered: dict[ClusterName, tuple[int, int]] = field(default_factory=dict)

    async def run(self, moved: Callable[[], None]) -> None:
        """Without end."""
        while True:
            moved()
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        names = self.clusters.names()
        self._answered = {name: answered for name, answered in self._answered.items() if name in names}
        await asyncio.gather(*(self._answer(name, self.drivers.view(name)) for name in names if self._has_asked(name)))

    def _has_asked(self, name: ClusterName) -> bool:
        """Whether there is a question; it is taken as answered from here on."""
        view = self.drivers.view(name)
        if view.line is None or view.status is None or not view.status.asks:
            return False
        asked = (view.line.pid, view.status.asks)
        if self._answered.get(name) == asked:
            return False
        self._answered[name] = asked
        return True

    async def _answer(self, name: ClusterName, view: View) -> None:
        asks = self._answered[name][1]
        why: dict[str, str] = {}
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                why = await self.backend.losses(name)
        except (FlowgroupError, TimeoutError) as exc:
            log.get().warning("losses_not_known", cluster=name, reason=str(exc))
        for process, cause in why.items():
            log.get().info("process_lost", cluster=name, process=process, reason=cause)
        if view.line is not None:
            view.line.write(Losses(why=why, asks=asks))
