"""
How everything stands, for operators: what `GET /flowgroup/status` answers, and `flowgroup status` shows.

It is served beside `/metrics`, read-only and to whoever reaches that port: names, numbers and ids, and never an
environment's value, a parameter or a key.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from flowgroup import __version__
from flowgroup.daemon.view import View
from flowgroup.metrics import LAST_POLL
from flowgroup.model.clusters import Kept
from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.orders import GroupLevel, Status
from flowgroup.model.spec import Numbers

Json = dict[str, Any]
_UNTOLD = Status(ready=False)


class Clusters(Protocol):
    def kept(self) -> list[Kept]: ...


class Drivers(Protocol):
    def view(self, cluster: ClusterName) -> View: ...


class Slots(Protocol):
    @property
    def free(self) -> int: ...
    @property
    def held(self) -> frozenset[RunId]: ...


class Timings(Protocol):
    def told(self) -> list[Json]: ...


class Dashboards(Protocol):
    def link(self, cluster: ClusterName) -> str | None: ...


class Scale(Protocol):
    def asked(self, name: ClusterName, group: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """`stuck` gives the loops that do not come round."""

    pool: str
    worker: str
    backend: str
    clusters: Clusters
    drivers: Drivers
    slots: Slots
    scale: Scale
    is_streamed: Callable[[], bool]
    stuck: Callable[[], list[str]]
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def told(self) -> Json:
        """
        `{"pool", "worker", "backend", "version", "at", "started_at", "last_poll_at", "events", "stuck", "slots", "clusters",
        "runs"}`. Moments are in ISO 8601, spans in seconds.
        """
        kept = self.clusters.kept()
        held = self.slots.held
        return {
            "pool": self.pool,
            "worker": self.worker,
            "backend": self.backend,
            "version": __version__,
            "at": datetime.now(UTC).isoformat(),
            "started_at": self.started_at.isoformat(),
            "last_poll_at": _last_poll(),
            "events": self.is_streamed(),
            "stuck": self.stuck(),
            "slots": {"total": self.slots.free + len(held), "held": len(held)},
            "clusters": [self._cluster(one) for one in kept],
            "runs": list(self._runs(kept, held)),
        }

    def paged(self, timings: Timings, ui: str | None, dashboards: Dashboards | None = None) -> Callable[[], Json]:
        """
        What the page asks for: the same, with `timings`, with `ui`, where people see their runs, if that is known, and with
        `dashboards`, the paths of Dask's dashboards by cluster.
        """

        def told() -> Json:
            kept = [one.spec for one in self.clusters.kept()]
            links = {spec.name: dashboards.link(spec.name) for spec in kept if dashboards and spec.has_workers}
            return {**self.told(), "timings": timings.told(), "ui": ui, "dashboards": links}

        return told

    def _cluster(self, kept: Kept) -> Json:
        spec, view = kept.spec, self.drivers.view(kept.spec.name)
        status = view.status or _UNTOLD
        return {
            "name": spec.name,
            "flow": spec.flow_name,
            "flow_id": spec.flow_id,
            "isolation": spec.isolation,
            "mode": spec.mode,
            "image": spec.image,
            "relay": spec.relay,
            "connected": view.is_connected,
            "ready": view.is_connected and status.ready,
            "trouble": status.trouble,
            "draining": kept.is_draining,
            "workers": sum(level.there for level in status.groups.values()),
            "groups": [self._group(spec.name, one, status.groups.get(one.group)) for one in spec.groups],
            "leases": list(kept.leases),
            "expected": list(kept.expected),
            "idle_s": round(kept.idle_s, 1),
            "idle_timeout_s": kept.idle_timeout_s,
            "why": kept.why,
            "spec": spec.model_dump(mode="json", exclude={"env", "start_script"}),
        }

    def _group(self, name: ClusterName, numbers: Numbers, level: GroupLevel | None) -> Json:
        return {
            "group": numbers.group,
            "least": numbers.least,
            "most": numbers.most,
            "there": level.there if level else None,
            "wanted": level.wanted if level else numbers.first,
            "asked": self.scale.asked(name, numbers.group) or None,
        }

    def _runs(self, kept: list[Kept], held: frozenset[RunId]) -> Iterator[Json]:
        """Runs under way: `phase` is held, placed, or what their driver says."""
        told: set[RunId] = set()
        for cluster in kept:
            name = cluster.spec.name
            for attempt in self.drivers.view(name).attempts.values():
                told.add(attempt.run_id)
                yield {"id": attempt.run_id, "cluster": name, "attempt": attempt.attempt, "phase": attempt.phase}
            for run in cluster.leases:
                if run not in told:
                    told.add(run)
                    yield {"id": run, "cluster": name, "attempt": None, "phase": "placed"}
        for run in sorted(held - told):
            yield {"id": run, "cluster": None, "attempt": None, "phase": "held"}


def _last_poll() -> str | None:
    seconds = next(iter(LAST_POLL.collect())).samples[0].value
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
