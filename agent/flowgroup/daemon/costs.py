"""
What clusters cost, by flow group: the time that they are there, and the processor, memory and GPU time of their processes.

In: how clusters are used, and what their drivers say of what they use. Out: metrics. Whoever runs code in a cluster could speak
for it, so that what is said is kept within what may be; at worst a group's own figures are wrong.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Protocol, get_args

from flowgroup.daemon.cluster import Phase
from flowgroup.daemon.view import View
from flowgroup.metrics import CLUSTER_SECONDS, CPU_SECONDS, GPU_SECONDS, MEMORY_SECONDS, WORKERS
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import GroupLevel, Status
from flowgroup.model.spec import ClusterSpec

OTHER = "other"
_LOOK_S = 5.0
_CHOOSE_EVERY_S = 600.0
_CORES_OF_A_GPU = 32.0  # about what one costs
_MOST_CORES = 1024.0  # of one process
_MOST_BYTES = 2.0**45


class Clusters(Protocol):
    def specs(self) -> dict[ClusterName, ClusterSpec]: ...
    def phases(self) -> dict[ClusterName, Phase]: ...


class Drivers(Protocol):
    def view(self, cluster: ClusterName) -> View: ...


Gpus = Callable[[ClusterSpec], Mapping[str, int]]
"""How many GPUs each worker of a group has, by the group's name; of groups without any it may be silent."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a cluster has cost since the last look. `memory_byte_s` is bytes times seconds."""

    seconds: float
    cpu_s: float = 0.0
    memory_byte_s: float = 0.0
    gpu_s: float = 0.0

    @property
    def weight(self) -> float:
        return self.seconds + self.cpu_s + _CORES_OF_A_GPU * self.gpu_s


class Named:
    """
    Which flow groups have series of their own: the `most` that cost most lately, chosen every ten minutes. What the others
    spend is counted under `other`, and stays there, so that no counter ever falls and the sum of all is right.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: set[str] = set()
        self._weights: defaultdict[str, float] = defaultdict(float)

    def label(self, group: str, weight: float) -> str:
        self._weights[group] += weight
        if group not in self._named and len(self._named) < self._most:
            self._named.add(group)
        return group if group in self._named else OTHER

    def choose(self) -> set[str]:
        """Choose anew. Returns those that had series, and have none from now on."""
        before = self._named
        self._named = set(nlargest(self._most, self._weights, key=self._weights.__getitem__))
        halved = {group: weight / 2 for group, weight in self._weights.items()}
        self._weights = defaultdict(float, {group: weight for group, weight in halved.items() if weight > 1.0})
        return before - self._named


@dataclass(slots=True)
class _Seen:
    """`cpu_s` is what the driver had used at the last look; None: a former daemon's, which has counted it."""

    cpu_s: float | None


@dataclass(slots=True)
class Costs:
    """`pool` is the isolation key of groups that name none."""

    clusters: Clusters
    drivers: Drivers
    gpus: Gpus
    pool: str
    named: Named
    _seen: dict[ClusterName, _Seen] | None = field(default=None)

    async def run(self, moved: Callable[[], None]) -> None:
        """Without end."""
        clock = asyncio.get_running_loop().time
        looked_at = chosen_at = clock()
        while True:
            moved()
            now = clock()
            self.look(now - looked_at)
            looked_at = now
            if now - chosen_at >= _CHOOSE_EVERY_S:
                chosen_at = now
                self._choose()
            await asyncio.sleep(_LOOK_S)

    def look(self, span_s: float) -> None:
        """Count what the last `span_s` seconds cost."""
        phases, specs = self.clusters.phases(), self.clusters.specs()
        first = None if self._seen is None else 0.0
        before = self._seen or {}
        self._seen = {name: before.get(name) or _Seen(first) for name in specs}
        workers: Counter[str] = Counter(wanted=0, there=0)
        for name, spec in specs.items():
            view = self.drivers.view(name)
            status = view.status if view.is_connected else None  # else what a dead cluster said last would go on
            spent = self._spent(spec, status, self._seen[name], span_s)
            self._count(spec, phases[name], spent)
            for level in _groups(spec, status).values() if status else ():
                workers.update(wanted=level.wanted, there=level.there)
        for state, number in workers.items():
            WORKERS.labels(state).set(number)

    def _spent(self, spec: ClusterSpec, status: Status | None, seen: _Seen, span_s: float) -> Spent:
        if status is None:
            return Spent(span_s)
        groups, gpus = _groups(spec, status), self.gpus(spec)
        held = sum(gpus.get(group, 0) * level.there for group, level in groups.items())
        cores = sum(min(level.cores, _MOST_CORES * level.there) for level in groups.values())
        bytes_of = [min(level.memory_bytes, _MOST_BYTES * level.there) for level in groups.values()]
        memory = min(status.memory_bytes, _MOST_BYTES) + sum(bytes_of)
        driver_s = min(_since(seen.cpu_s, status.cpu_s), _MOST_CORES * span_s)
        seen.cpu_s = status.cpu_s
        return Spent(span_s, driver_s + cores * span_s, memory * span_s, held * span_s)

    def _count(self, spec: ClusterSpec, phase: Phase, spent: Spent) -> None:
        label = self.named.label(group_of(spec, self.pool), spent.weight)
        CLUSTER_SECONDS.labels(label, phase).inc(spent.seconds)
        CPU_SECONDS.labels(label).inc(spent.cpu_s)
        MEMORY_SECONDS.labels(label).inc(spent.memory_byte_s)
        GPU_SECONDS.labels(label).inc(spent.gpu_s)

    def _choose(self) -> None:
        for group in self.named.choose():
            for metric in (CPU_SECONDS, MEMORY_SECONDS, GPU_SECONDS):
                metric.remove(group)
            for phase in get_args(Phase):
                CLUSTER_SECONDS.remove(group, phase)


def group_of(spec: ClusterSpec, pool: str) -> str:
    """A flow group's name: its flow's, and the isolation key where that is not the pool."""
    return spec.flow_name if spec.isolation == pool else f"{spec.flow_name} ({spec.isolation})"


def _since(before: float | None, now: float) -> float:
    """What was used since; a driver that was started again counts from 0."""
    if before is None:
        return 0.0
    return now - before if now >= before else now


def _groups(spec: ClusterSpec, status: Status) -> dict[str, GroupLevel]:
    """What is said of the groups that there are, none with more workers than it may have."""
    said = {one: status.groups[one.group] for one in spec.groups if one.group in status.groups}
    return {one.group: level.model_copy(update={"there": min(level.there, one.most)}) for one, level in said.items()}
