"""A backend whose clusters take time to boot, and whose drivers are views that the test moves. Time may be virtual."""

import asyncio
from dataclasses import dataclass, field

from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.view import View
from flowgroup.errors import Transient
from flowgroup.model.clusters import Fate, Found, Takes
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import Remark, Status
from flowgroup.model.spec import ClusterSpec


@dataclass
class Boots:
    """A backend whose clusters say ready after `boot_s`, unless told otherwise."""

    drivers: Drivers
    boot_s: float = 3.0
    trouble: str | None = None
    dies: str | None = None
    clusters: dict[ClusterName, Found] = field(default_factory=dict)
    dead: dict[ClusterName, str] = field(default_factory=dict)
    made: list[ClusterName] = field(default_factory=list)
    deleted: list[ClusterName] = field(default_factory=list)
    scaled: list[tuple[ClusterName, str, int]] = field(default_factory=list)
    looks: int = 0
    fails: int = 0
    is_answer_lost: bool = False
    is_unseen: bool = False
    told: tuple[Remark, ...] = ()
    python: str | None = None
    fates: dict[ClusterName, Fate] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def takes(self, spec: ClusterSpec) -> Takes:
        return Takes(pods=1 + spec.workers, cpu=1.0 + spec.workers * spec.worker_threads)

    async def find(self) -> list[Found]:
        if self.fails:
            self.fails -= 1
            raise Transient("the backend is away")
        return list(self.clusters.values())

    async def create(self, spec: ClusterSpec) -> Found:
        await asyncio.sleep(1)
        if self.fails:
            self.fails -= 1
            raise Transient("no room")
        self.made.append(spec.name)
        self.clusters[spec.name] = Found(spec.name, spec, "secret")
        self.tasks.append(asyncio.create_task(self._boot(spec.name)))
        if self.is_answer_lost:
            raise Transient("made, and its answer never arrived")
        return self.clusters[spec.name]

    async def _boot(self, name: ClusterName) -> None:
        await asyncio.sleep(self.boot_s)
        if self.dies:
            self.dead[name] = self.dies
            return
        connect(self.drivers.view(name), Status(ready=self.trouble is None, trouble=self.trouble))

    async def delete(self, name: ClusterName) -> None:
        await asyncio.sleep(1)
        if self.fails:
            self.fails -= 1
            raise Transient("still busy")
        if self.clusters.pop(name, None):
            self.deleted.append(name)
        self.dead.pop(name, None)

    async def scale(self, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> bool:
        self.scaled.append((name, group, wanted))
        return True

    async def remarks(self, spec: ClusterSpec) -> tuple[Remark, ...]:
        return self.told

    async def look(self, name: ClusterName) -> str | None:
        if self.is_unseen:
            raise Transient("the backend is away")
        return self.dead.get(name)

    async def fate(self, name: ClusterName) -> Fate:
        return self.fates.get(name, "certain")

    async def why_never(self, name: ClusterName) -> str | None:
        self.looks += 1
        return await self.look(name)


class Mute:
    """A line on which nothing is written to anybody."""

    pid = 1

    def write(self, frame: object) -> None: ...
    def close(self) -> None: ...


def connect(view: View, status: Status) -> None:
    view.line, view.status = Mute(), status  # type: ignore[assignment]
    view.notify()
