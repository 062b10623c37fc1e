"""
Clusters: found or made, ready, leased, and gone when nobody needs them.

In: the spec that a run belongs on. Out: a cluster whose driver is on the line and ready. A cluster lives while a run has
a lease on it or is expected on it, and then for its idle time. A backend only finds, makes, shows and deletes; all
deciding is here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Protocol, get_args

from flowgroup import log
from flowgroup.daemon.boots import Boots
from flowgroup.daemon.cluster import Cluster, ClusterFailed, Phase
from flowgroup.daemon.points import reached
from flowgroup.daemon.unless import to_its_end
from flowgroup.daemon.view import View
from flowgroup.errors import FlowgroupError
from flowgroup.metrics import CLUSTER_START, CLUSTERS, CLUSTERS_MADE, PREWARMS
from flowgroup.model.clusters import Fate, Found, Kept, Takes
from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.orders import Remark
from flowgroup.model.spec import ClusterSpec

_LOOK_EVERY_S = 1.0
_HALF_MADE_TIMEOUT_S = 10.0
_WHY_TIMEOUT_S = 5.0
_SERVED_S = 60.0


class Backend(Protocol):
    """
    What makes clusters. `python` is the drivers' version (`3.11`), None if it is not known beforehand.

    Every call may raise Transient or Permanent.
    """

    @property
    def python(self) -> str | None: ...

    def takes(self, spec: ClusterSpec) -> Takes:
        """What a cluster of this spec takes at most. Raises Refused for what there is not."""
        ...

    async def find(self) -> list[Found]:
        """Every cluster of this pool, alive or dead."""
        ...

    async def create(self, spec: ClusterSpec) -> Found:
        """Make the cluster `spec.name`, or return it as it is if it exists. It need not be ready."""
        ...

    async def delete(self, name: ClusterName) -> None:
        """End its processes and remove what it left, also of one that is half made or half gone. Waits until it is so."""
        ...

    async def look(self, name: ClusterName) -> str | None:
        """None while its processes live; else why they do not: cause and remedy. Cheap: it is asked every second."""
        ...

    async def why_never(self, name: ClusterName) -> str | None:
        """Of a cluster that is not ready: None while it may become so; else why it never will. As cheap as `look`."""
        ...

    async def fate(self, name: ClusterName) -> Fate:
        """Of a cluster of which `look` or `why_never` says something: what it means for another try. Never raises."""
        ...

    async def why_waiting(self, name: ClusterName) -> str | None:
        """What a cluster that lives and is not ready waits for, None if that is not known. Not for every second."""
        ...

    @property
    def renew_every_s(self) -> float | None:
        """How often to `renew`; None where clusters that no daemon keeps are nobody's burden."""
        ...

    async def renew(self, names: Sequence[ClusterName]) -> None:
        """Note that a daemon lives and keeps these. What is not renewed for long may be removed by somebody else."""
        ...

    async def remarks(self, spec: ClusterSpec) -> tuple[Remark, ...]:
        """What logs of runs on a cluster that is ready should say of it: its images. Asked once."""
        ...


class Drivers(Protocol):
    def view(self, cluster: ClusterName) -> View: ...
    def shut_down(self, cluster: ClusterName) -> None: ...


class Clusters:
    def __init__(
        self,
        backend: Backend,
        drivers: Drivers,
        *,
        idle_timeout_s: float,
        on_free: Callable[[], None] = lambda: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_free` is called when a lease is given back, `on_turn` when a turn that was wanted is free, or a cluster gone."""
        self._backend = backend
        self._drivers = drivers
        self._idle_timeout_s = idle_timeout_s
        self._on_free = on_free
        self._on_turn = on_turn
        self._clusters: dict[ClusterName, Cluster] = {}
        self._served: dict[RunId, float] = {}
        self._boots = Boots()

    async def adopt(self) -> None:
        """Take over what a former daemon left. The idle time of each begins now."""
        for found in await self._backend.find():
            cluster = self._cluster(found.name)
            cluster.found = found
            if found.spec.mode == "per-run":
                cluster.idle_timeout_s = 0.0
        self.phases()

    def secret_of(self, name: ClusterName) -> str | None:
        cluster = self._clusters.get(name)
        return cluster.found.secret if cluster and cluster.found else None

    def names(self) -> list[ClusterName]:
        """Clusters that exist."""
        return [name for name, cluster in self._clusters.items() if cluster.found]

    def specs(self) -> dict[ClusterName, ClusterSpec]:
        """What the clusters that exist are."""
        return {name: cluster.found.spec for name, cluster in self._clusters.items() if cluster.found}

    def phases(self) -> dict[ClusterName, Phase]:
        """How the clusters that exist are used now; told in the metrics too."""
        there = {
            name: cluster.phase(is_ready=self.is_ready(name))
            for name, cluster in self._clusters.items()
            if cluster.found
        }
        now = Counter(there.values())
        for phase in get_args(Phase):
            CLUSTERS.labels(phase).set(now[phase])
        return there

    def kept(self) -> list[Kept]:
        """The clusters that exist, with all that they live for."""
        now = asyncio.get_running_loop().time()
        return [kept for cluster in self._clusters.values() if (kept := cluster.kept(now))]

    async def look(self, name: ClusterName) -> str | None:
        """Why its processes are dead; None while they live, and while nobody can see: what is not known must end no run."""
        if self.secret_of(name) is None:
            return "the cluster is not there any more"
        try:
            return await self._backend.look(name)
        except FlowgroupError as exc:
            log.get().warning("cluster_not_seen", cluster=name, reason=str(exc))
            return None

    async def fate(self, name: ClusterName) -> Fate:
        """What it means for another try that a cluster is dead."""
        return "may-pass" if self.secret_of(name) is None else await self._backend.fate(name)

    async def why_waiting(self, name: ClusterName) -> str | None:
        """What a cluster that is not ready waits for, for a run's message; None if that is not known or not known soon."""
        try:
            async with asyncio.timeout(_WHY_TIMEOUT_S):
                return await self._backend.why_waiting(name) if self.secret_of(name) is not None else None
        except (TimeoutError, FlowgroupError):
            return None

    async def remarks(self, name: ClusterName) -> tuple[Remark, ...]:
        """What a run's log should say of its cluster: the first run's all, the others' what is a warning. Never raises."""
        cluster = self._clusters.get(name)
        if cluster is None or cluster.found is None:
            return ()
        if cluster.remarks is not None:
            return tuple(remark for remark in cluster.remarks if remark.is_warning)
        cluster.remarks = ()
        with suppress(TimeoutError, FlowgroupError):
            async with asyncio.timeout(_WHY_TIMEOUT_S):
                cluster.remarks = await self._backend.remarks(cluster.found.spec)
        for remark in cluster.remarks:
            (log.get().warning if remark.is_warning else log.get().info)(
                "cluster_remark", cluster=name, text=remark.text
            )
        return cluster.remarks

    # Who needs it

    @contextmanager
    def turn(self, spec: ClusterSpec | None, run_id: RunId) -> Iterator[bool]:
        """
        The run's turn on a cluster that takes one run at a time, or is being drained. False if it is another's, or nobody's
        until the cluster is gone; always True elsewhere.

        It is asked for before the run is claimed: a run that waits for its turn stays Scheduled and holds nothing.
        """
        if spec is None or (spec.mode != "exclusive" and not self._is_draining(spec.name)):
            yield True
            return
        cluster = self._cluster(spec.name)
        if cluster.is_draining or cluster.turn or cluster.leases - {run_id}:
            cluster.is_turn_wanted = True
            yield False
            return
        cluster.turn = run_id
        try:
            yield True
        finally:
            cluster.turn = None
            self._freed(spec.name)

    @contextmanager
    def lease(self, name: ClusterName, run_id: RunId, idle_timeout_s: float | None = None) -> Iterator[None]:
        """The cluster is needed during the block, and for its idle time after it."""
        cluster = self._cluster(name)
        cluster.leases.add(run_id)
        if taken := cluster.expected.pop(run_id, None):
            PREWARMS.labels("hit" if self.is_ready(name) else "late").inc()
            taken.set()
        if idle_timeout_s is not None:
            cluster.idle_timeout_s = idle_timeout_s
        try:
            yield
        finally:
            cluster.leases.discard(run_id)
            cluster.idle_since = asyncio.get_running_loop().time()
            self._note_served(run_id, cluster.idle_since)
            self._freed(name)
            self._on_free()

    @contextmanager
    def expect(self, name: ClusterName, run_id: RunId, idle_timeout_s: float) -> Iterator[asyncio.Event]:
        """
        The cluster is kept during the block for a run that comes soon, which does not count as a run on it.

        Yields an event which is set when the run has its own lease, or has had it: from then on the block keeps nothing.
        """
        cluster, taken = self._cluster(name), asyncio.Event()
        if asyncio.get_running_loop().time() - self._served.get(run_id, -inf) < _SERVED_S:
            taken.set()
        else:
            cluster.expected[run_id] = taken
            cluster.idle_timeout_s = idle_timeout_s
        try:
            yield taken
        finally:
            if cluster.expected.get(run_id) is taken:
                del cluster.expected[run_id]
                PREWARMS.labels("unused").inc()
            self._forget_if_nothing(name)
            self._on_free()

    def _note_served(self, run_id: RunId, now: float) -> None:
        """A run may be over before its time. One that comes again, later, is expected again."""
        self._served = {run: at for run, at in self._served.items() if now - at < _SERVED_S} | {run_id: now}

    def _freed(self, name: ClusterName) -> None:
        cluster = self._cluster(name)
        if cluster.is_turn_wanted and not (cluster.turn or cluster.leases or cluster.is_draining):
            cluster.is_turn_wanted = False
            self._on_turn()
        self._forget_if_nothing(name)

    def drain(self, names: Collection[ClusterName]) -> None:
        """Exactly these are drained: they take no run any more, and go when those that they have are over."""
        for name, cluster in self._clusters.items():
            is_draining = name in names and cluster.found is not None
            if is_draining != cluster.is_draining:
                log.get().info("cluster_drained" if is_draining else "cluster_not_drained", cluster=name)
            cluster.is_draining = is_draining

    def _is_draining(self, name: ClusterName) -> bool:
        return name in self._clusters and self._clusters[name].is_draining

    # Made and ready

    async def ready(self, spec: ClusterSpec) -> Found:
        """
        Find or make the cluster, and wait without limit until its driver is ready.

        Raises ClusterFailed as soon as it is certain that it never will be.
        """
        cluster = self._cluster(spec.name)
        async with cluster.lock:  # first runs that come together make one cluster
            if cluster.found and (reason := await self._hopeless(cluster.found)):
                log.get().warning("cluster_made_again", cluster=spec.name, reason=reason)
                await self._delete(cluster, spec.name)
            began = None
            if cluster.found is None:
                began = asyncio.get_running_loop().time()
                making = self._make(cluster, spec)
                await to_its_end(making, name=f"make {spec.name}", timeout_s=_HALF_MADE_TIMEOUT_S)
            found = cluster.found
            assert found is not None
        await self._until_ready(found)
        if began is not None:
            took_s = asyncio.get_running_loop().time() - began
            self._boots.note(spec, took_s)
            CLUSTER_START.observe(took_s)
        return found

    def slowest_boot_s(self, spec: ClusterSpec) -> float | None:
        """The slowest of the last few clusters that were as large at least; None if there was none."""
        return self._boots.slowest_s(spec)

    def is_ready(self, name: ClusterName) -> bool:
        """Whether its driver is on the line and takes runs."""
        view = self._drivers.view(name)
        return view.is_connected and view.status is not None and view.status.ready

    async def _make(self, cluster: Cluster, spec: ClusterSpec) -> None:
        log.get().info("cluster_make", cluster=spec.name, flow=spec.flow_name, workers=spec.workers, mode=spec.mode)
        reached("making")
        cluster.may_exist = True
        cluster.found = await self._backend.create(spec)
        reached("made")
        CLUSTERS_MADE.inc()

    async def _hopeless(self, found: Found) -> str | None:
        view = self._drivers.view(found.name)
        if view.is_connected and view.status:
            return view.status.trouble
        return await self._backend.look(found.name)

    async def _until_ready(self, found: Found) -> None:
        clock = asyncio.get_running_loop().time
        look_at = clock() + _LOOK_EVERY_S  # of one that was just made, or looked at, nothing is known yet
        while True:
            view = self._drivers.view(found.name)
            changed, status = view.changed, view.status
            if view.is_connected and status and status.ready:
                return
            if view.is_connected and status and status.trouble:
                raise ClusterFailed(f"Cluster {found.name} cannot serve: {status.trouble}", status.start_log)
            if clock() >= look_at:
                look_at = clock() + _LOOK_EVERY_S
                if reason := await self._backend.why_never(found.name):  # its driver may be there without a scheduler
                    may_pass = await self._backend.fate(found.name) != "certain"
                    raise ClusterFailed(f"Cluster {found.name} ended before it was ready: {reason}", may_pass=may_pass)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at):
                    await changed.wait()

    @property
    def renew_every_s(self) -> float | None:
        return self._backend.renew_every_s

    async def renew(self) -> None:
        """Note at the backend that these clusters are kept."""
        await self._backend.renew(self.names())

    # Gone

    def idle(self) -> list[ClusterName]:
        """Clusters that nobody needs, and has not needed for their idle time."""
        now = asyncio.get_running_loop().time()
        return [name for name, cluster in self._clusters.items() if cluster.is_idle(now)]

    def unneeded(self) -> list[ClusterName]:
        """Clusters that nobody needs now, though their idle time may not be over; the longest idle first."""
        free = {name: cluster for name, cluster in self._clusters.items() if cluster.is_unneeded}
        return sorted(free, key=lambda name: free[name].idle_since)

    def give_up(self, name: ClusterName) -> None:
        """The cluster goes now, unless somebody comes to need it before."""
        self._cluster(name).idle_timeout_s = 0.0
        self._on_free()

    async def delete_if_idle(self, name: ClusterName) -> None:
        """Delete the cluster, unless somebody has come to need it meanwhile."""
        cluster = self._cluster(name)
        async with cluster.lock:
            if cluster.is_idle(asyncio.get_running_loop().time()):
                log.get().info("cluster_idle", cluster=name, idle_timeout_s=cluster.idle_timeout_s)
                await self._delete(cluster, name)
                self._freed(name)  # what waited while it was drained
        self._forget_if_nothing(name)

    def _forget_if_nothing(self, name: ClusterName) -> None:
        if self._cluster(name).is_nothing:
            del self._clusters[name]

    async def _delete(self, cluster: Cluster, name: ClusterName) -> None:
        self._drivers.shut_down(name)
        reached("deleting")
        await self._backend.delete(name)
        reached("deleted")
        cluster.found, cluster.remarks, cluster.is_draining = None, None, False
        cluster.may_exist = False
        self.phases()
        self._on_turn()  # there is room for another

    def _cluster(self, name: ClusterName) -> Cluster:
        if name not in self._clusters:
            now = asyncio.get_running_loop().time()
            self._clusters[name] = Cluster(idle_since=now, idle_timeout_s=self._idle_timeout_s)
        return self._clusters[name]
