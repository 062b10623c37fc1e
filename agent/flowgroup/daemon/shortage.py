"""
Runs whose cluster lacks workers are told why, in their own logs.

A run that is Running cannot be given another state: its tasks wait, and nobody else would say what for. Level: looked at anew
every few seconds, said once for each reason and run.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.view import View
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.orders import Attempt

_LOOK_S = 5.0
_PATIENCE_S = 10.0
_SAID_EVERY_S = 60.0


class Api(Protocol):
    async def write_log(self, run_id: RunId, level: str, message: str) -> None: ...


class Clusters(Protocol):
    async def why_waiting(self, name: ClusterName) -> str | None: ...


class Drivers(Protocol):
    def carried(self) -> list[tuple[ClusterName, Attempt]]: ...
    def view(self, cluster: ClusterName) -> View: ...


@dataclass(slots=True)
class Shortage:
    api: Api
    clusters: Clusters
    drivers: Drivers
    _short_since: dict[ClusterName, float] = field(default_factory=dict)
    _said: dict[RunId, tuple[str, float]] = field(default_factory=dict)

    async def run(self, moved: Callable[[], None]) -> None:
        """Without end."""
        while True:
            moved()
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        runs: dict[ClusterName, set[RunId]] = {}
        for cluster, attempt in self.drivers.carried():
            if attempt.phase == "running":
                runs.setdefault(cluster, set()).add(attempt.run_id)
        self._said = {run: said for run, said in self._said.items() if any(run in those for those in runs.values())}
        now = asyncio.get_running_loop().time()
        short = {name: self._short_since.get(name, now) for name in runs if self._is_short(name)}
        self._short_since = short
        await asyncio.gather(*(self._say(name, runs[name]) for name, at in short.items() if now - at >= _PATIENCE_S))

    def _is_short(self, name: ClusterName) -> bool:
        status = self.drivers.view(name).status
        return status is not None and any(group.there < group.wanted for group in status.groups.values())

    async def _say(self, name: ClusterName, runs: set[RunId]) -> None:
        reason = await self.clusters.why_waiting(name)
        for run in runs if reason else ():
            said, at = self._said.get(run, ("", 0.0))
            now = asyncio.get_running_loop().time()
            if reason is None or said == reason or (said and now - at < _SAID_EVERY_S):
                continue
            try:
                await self.api.write_log(run, "warning", f"The cluster lacks workers: {reason}")
                self._said[run] = (reason, now)
            except FlowgroupError as exc:
                log.get().warning("shortage_untold", run=run, reason=str(exc))
