"""
Groups of workers that follow the work: what the clusters' schedulers want is what the backend makes.

In: the levels in the drivers' status. Out: calls of the backend's `scale`. All deciding is the scheduler's; here its word is
kept within the spec's numbers, for whoever runs code in a cluster could speak for it. A level that was carried out is
carried out again now and then, so that what somebody changed heals.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.view import View
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import GroupLevel
from flowgroup.model.spec import ClusterSpec, Numbers

_LOOK_S = 1.0
_SOON_S = 2.0
_AGAIN_S = 30.0

Group = tuple[ClusterName, str]
Wish = tuple[int, float]
"""How many workers, and until when they are waited for: seconds since 1970."""


class Backend(Protocol):
    async def scale(self, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> bool:
        """
        Remove these retired workers of the group, then see to it that there are `wanted`, but end none that is at work.

        False: not yet so, and to be asked again soon. May raise Transient or Permanent.
        """
        ...


class Clusters(Protocol):
    def specs(self) -> dict[ClusterName, ClusterSpec]: ...


class Drivers(Protocol):
    def view(self, cluster: ClusterName) -> View: ...


@dataclass(slots=True)
class _Done:
    """What was carried out last, and from when on it is to be carried out again. `at` is of the event loop's clock."""

    level: tuple[int, tuple[str, ...]] | None = None
    again_at: float = 0.0
    trouble: str = ""


@dataclass(slots=True)
class Scale:
    backend: Backend
    clusters: Clusters
    drivers: Drivers
    _asked: dict[Group, int] = field(default_factory=dict)
    _reached: dict[Group, Wish] = field(default_factory=dict)
    _done: dict[tuple[ClusterName, str], _Done] = field(default_factory=dict)
    _busy: set[ClusterName] = field(default_factory=set)

    async def run(self, moved: Callable[[], None]) -> None:
        """Without end. A cluster whose calls take long holds up no other."""
        async with asyncio.TaskGroup() as scaling:
            while True:
                moved()
                specs = self.clusters.specs()
                self._done = {key: done for key, done in self._done.items() if key[0] in specs}
                for name, spec in specs.items():
                    if name not in self._busy and (due := self._due(name, spec)):
                        self._busy.add(name)
                        scaling.create_task(self._scale(name, due), name=f"scale {name}")
                await asyncio.sleep(_LOOK_S)

    def ask(self, asked: Mapping[Group, Wish]) -> None:
        """
        Exactly these groups get so many workers, within their numbers, until they are there: an operator asked for it.

        Once they were there it is done: what is idle then goes again, by the scheduler's word.
        """
        self._reached = {key: wish for key, wish in self._reached.items() if asked.get(key) == wish}
        self._reached |= {key: wish for key, wish in asked.items() if self._there(*key) >= wish[0]}
        self._asked = {key: wish[0] for key, wish in asked.items() if key not in self._reached}

    def asked(self, name: ClusterName, group: str) -> int:
        """What an operator asked for and is not there yet; 0 if nothing."""
        return self._asked.get((name, group), 0)

    def _there(self, name: ClusterName, group: str) -> int:
        status = self.drivers.view(name).status
        return status.groups[group].there if status and group in status.groups else 0

    def _due(self, name: ClusterName, spec: ClusterSpec) -> dict[str, tuple[int, tuple[str, ...]]]:
        """The groups whose level has to be carried out, and it, kept within the group's numbers."""
        groups = [numbers for numbers in spec.groups if not numbers.is_fixed]
        status = self.drivers.view(name).status if groups else None
        levels = (
            {one.group: _within(one, status.groups, self.asked(name, one.group)) for one in groups} if status else {}
        )
        now = asyncio.get_running_loop().time()
        due = {}
        for group, level in levels.items():
            done = self._done.setdefault((name, group), _Done())
            if level and (now >= done.again_at or (level != done.level and not done.trouble)):
                due[group] = level
        return due

    async def _scale(self, name: ClusterName, due: Mapping[str, tuple[int, tuple[str, ...]]]) -> None:
        try:
            for group, (wanted, retired) in due.items():
                await self._group(name, group, wanted, retired)
        finally:
            self._busy.discard(name)

    async def _group(self, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> None:
        done = self._done.setdefault((name, group), _Done())
        if (wanted, retired) != done.level:
            log.get().info("group_scaled", cluster=name, group=group, wanted=wanted, retired=list(retired))
        trouble, is_so = "", False
        try:
            is_so = await self.backend.scale(name, group, wanted, retired)
        except FlowgroupError as exc:
            trouble = str(exc)
            if trouble != done.trouble:
                log.get().warning("group_not_scaled", cluster=name, group=group, reason=trouble, then="trying again")
        again_s = _AGAIN_S if is_so else _SOON_S
        done.level, done.trouble = (wanted, retired), trouble
        done.again_at = asyncio.get_running_loop().time() + again_s


def _within(numbers: Numbers, levels: Mapping[str, GroupLevel], asked: int) -> tuple[int, tuple[str, ...]] | None:
    said = levels.get(numbers.group)
    return (min(max(said.wanted, numbers.least, asked), numbers.most), said.retired) if said else None
