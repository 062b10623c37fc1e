"""
How much may be there at once: runs, clusters, pods, CPU and GPUs, of the whole pool and of one flow group.

In: the cluster that a run needs. Out: room for it, or why there is none; then the run is not claimed, and stays Scheduled. Room
is taken before anything is made and given back when nothing is left of it, so no cap is ever passed. A group of workers that
follows its work counts with what it may grow to: growth is never held back, and needs no room of its own. Clusters made
ahead count too, and give way: none is made while a run that is due waits for room.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.errors import Refused
from flowgroup.model.clusters import Takes
from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.spec import ClusterSpec
from flowgroup.sections import DaemonSettings

_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each, by the names of `Takes` and `runs`; what is not in it has no limit."""

    pool: Mapping[str, float] = field(default_factory=dict)
    group: Mapping[str, float] = field(default_factory=dict)


class Clusters(Protocol):
    def specs(self) -> dict[ClusterName, ClusterSpec]: ...
    def unneeded(self) -> list[ClusterName]: ...
    def give_up(self, name: ClusterName) -> None: ...


@dataclass(frozen=True, slots=True)
class _Need:
    """One cluster as far as it counts. A name is a hash, and dear to make: it is asked of a spec once."""

    name: ClusterName
    group: tuple[str, str]
    takes: Mapping[str, float]


@dataclass(slots=True)
class Caps:
    """`takes` says what a cluster takes at most; it may raise Refused."""

    limits: Limits
    clusters: Clusters
    takes: Callable[[ClusterSpec], Takes]
    _runs: dict[RunId, _Need] = field(default_factory=dict)
    _ahead: dict[RunId, _Need] = field(default_factory=dict)
    _waiting: dict[RunId, _Need] = field(default_factory=dict)
    _left: set[ClusterName] = field(default_factory=set)
    _known: dict[ClusterName, _Need] = field(default_factory=dict)

    def check(self, spec: ClusterSpec) -> None:
        """Raises Refused for a cluster that is larger than a cap by itself: it would wait without end."""
        for whose, limits in (("pool", self.limits.pool), ("group", self.limits.group)):
            for kind, amount in self._need(spec.name, spec).takes.items():
                if amount > limits.get(kind, amount):
                    raise Refused(
                        f"the cluster of {spec.flow_name!r} would take {amount:g} {kind} at most, which is more than the "
                        f"{whose}'s cap, {limits[kind]:g} ({setting(whose, kind)}): ask for fewer or smaller workers"
                    )

    @contextmanager
    def room(self, spec: ClusterSpec | None, run_id: RunId) -> Iterator[bool]:
        """Room for a run and the cluster that it needs, for the block; False: there is none now."""
        if spec is None:
            yield True
            return
        need = self._need(spec.name, spec)
        if self._lacking(need, self._counted(), runs=1):
            self._waiting[run_id] = need
            self._make_room(need, run_id)
            yield False
            return
        with self._taken(self._runs, run_id, need):
            yield True

    @contextmanager
    def resumed(self, name: ClusterName, run_id: RunId) -> Iterator[None]:
        """A run that is under way whatever the caps say counts during the block."""
        spec = self.clusters.specs().get(name)
        if spec is None:
            yield
            return
        with self._taken(self._runs, run_id, self._need_of_made(name, spec)):
            yield

    @contextmanager
    def ahead(self, spec: ClusterSpec, run_id: RunId) -> Iterator[bool]:
        """Room for a cluster that is made ahead of its run, for the block. None while a run that is due waits."""
        need, there = self._need_of_made(spec.name, spec), self._counted()
        if need.name not in there and (self._waiting or self._lacking(need, there)):
            yield False
            return
        with self._taken(self._ahead, run_id, need):
            yield True

    def still_waits(self, run_id: RunId) -> str | None:
        """Of a run that was refused: under which cap there is no room for it, as `group.cpu` or `pool.pods`."""
        need = self._waiting.get(run_id)
        return self._lacking(need, self._counted(), runs=1) if need else None

    def keep_waiting(self, offered: set[RunId]) -> None:
        """Those of the runs that wait which are still to be had; the others wait for nothing."""
        self._waiting = {run: need for run, need in self._waiting.items() if run in offered}

    # Inside

    @contextmanager
    def _taken(self, held: dict[RunId, _Need], run_id: RunId, need: _Need) -> Iterator[None]:
        self._waiting.pop(run_id, None)
        held[run_id] = need
        try:
            yield
        finally:
            held.pop(run_id, None)

    def _counted(self) -> dict[ClusterName, _Need]:
        """Clusters that are there, and those that somebody has room for."""
        there = {name: self._need_of_made(name, spec) for name, spec in self.clusters.specs().items()}
        return there | {need.name: need for held in (self._ahead, self._runs) for need in held.values()}

    def _lacking(self, need: _Need, there: Mapping[ClusterName, _Need], *, runs: int = 0) -> str | None:
        """The first cap that would be passed with this cluster beside those, and so many more runs."""
        for whose, limits in (("pool", self.limits.pool), ("group", self.limits.group)):
            is_counted = _everybody if whose == "pool" else _of_group(need.group)
            under_way = sum(map(is_counted, self._runs.values()))
            if runs and under_way + runs > limits.get("runs", under_way + runs):
                return f"{whose}.runs"
            if need.name in there:
                continue
            among = [need, *filter(is_counted, there.values())]
            for kind in need.takes.keys() & limits.keys():
                if sum(one.takes[kind] for one in among) > limits[kind]:
                    return f"{whose}.{kind}"
        return None

    def _make_room(self, need: _Need, run_id: RunId) -> None:
        """Give up clusters that nobody needs, the longest idle first, if that is enough; no more than it takes."""
        rest = self._counted()
        unneeded = [name for name in self.clusters.unneeded() if name != need.name]
        self._left &= set(unneeded)
        for name in self._left:
            rest.pop(name, None)
        giving = [name for name in unneeded if name not in self._left]
        for number in range(len(giving) + 1):
            if self._lacking(need, rest) is None:
                for name in giving[:number]:
                    log.get().info("cluster_given_up", cluster=name, run=run_id, reason="its room is needed")
                    self.clusters.give_up(name)
                self._left |= set(giving[:number])
                return
            if number < len(giving):
                rest.pop(giving[number], None)

    def _need(self, name: ClusterName, spec: ClusterSpec) -> _Need:
        if name not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[name] = _Need(name, group_of(spec), self.takes(spec).told())
        return self._known[name]

    def _need_of_made(self, name: ClusterName, spec: ClusterSpec) -> _Need:
        """Of a cluster that may have been made under another catalogue of sizes: then no more is known than that it is one."""
        try:
            return self._need(name, spec)
        except Refused as exc:
            log.get().warning("cluster_not_counted", cluster=name, reason=str(exc))
            self._known[name] = _Need(name, group_of(spec), Takes().told())
            return self._known[name]


def _everybody(_: _Need) -> bool:
    return True


def _of_group(group: tuple[str, str]) -> Callable[[_Need], bool]:
    return lambda need: need.group == group


def group_of(spec: ClusterSpec) -> tuple[str, str]:
    """The flow group of a cluster: one flow within one isolation key."""
    return spec.flow_id, spec.isolation


def setting(whose: str, kind: str) -> str:
    """The setting's name of a cap."""
    return f"FLOWGROUP_{'CAP' if whose == 'pool' else 'GROUP_CAP'}_{kind.upper()}"


def limits_of(daemon: DaemonSettings) -> Limits:
    """The pool's runs are the slots."""
    told = {name: value for name, value in daemon.model_dump().items() if "cap_" in name and value is not None}
    pool = {name.removeprefix("cap_"): value for name, value in told.items() if name.startswith("cap_")}
    group = {name.removeprefix("group_cap_"): value for name, value in told.items() if name.startswith("group_cap_")}
    return Limits(pool, group)
