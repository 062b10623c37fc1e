"""
Placed and sent: from a claimed run and its plan to an attempt that a driver has been given.

Every step can be done again: the cluster is found by its name, the attempt opened anew (with another token), and the
driver knows attempts by their names.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.points import reached
from flowgroup.metrics import STAGE_SECONDS
from flowgroup.model.bundle import BundleRef
from flowgroup.model.clusters import Found
from flowgroup.model.ids import ClusterName, RelayName, slug
from flowgroup.model.orders import BundleCode, Order, PrefectCode, Remark
from flowgroup.model.runs import ClaimedRun, Deployment, Known, Opened, Placement, SentRun
from flowgroup.model.spec import ClusterSpec


class Clusters(Protocol):
    async def ready(self, spec: ClusterSpec) -> Found: ...
    async def remarks(self, name: ClusterName) -> tuple[Remark, ...]: ...


class Attempts(Protocol):
    async def open(self, run: ClaimedRun, cluster: ClusterName, results: str | None, relay: RelayName) -> Opened: ...


class Drivers(Protocol):
    def send(self, cluster: ClusterName, order: Order) -> None: ...


class Knowledge(Protocol):
    async def of(self, run: ClaimedRun, deployment: Deployment) -> Known: ...


class Shelf(Protocol):
    async def check(self, ref: BundleRef) -> None: ...
    async def fetch(self, ref: BundleRef) -> str: ...


@dataclass(frozen=True, slots=True)
class Sender:
    clusters: Clusters
    attempts: Attempts
    drivers: Drivers
    knowledge: Knowledge
    shelf: Shelf
    public_keys: tuple[str, ...]
    ui_url: str | None = None

    async def sent(self, run: ClaimedRun, plan: Placement) -> SentRun:
        """
        Find or make the cluster, wait until it is ready, and give its driver the order.

        Raises Transient when it may succeed later, and Permanent when never.
        """
        if plan.bundle is not None:
            await self.shelf.check(plan.bundle)
        with STAGE_SECONDS.labels("placed").time():
            found = await self.clusters.ready(plan.spec)
        log.get().info("run_placed", run=run.id, attempt=run.attempt, cluster=found.name)
        reached("placed")
        with STAGE_SECONDS.labels("sent").time():
            assert plan.deployment is not None  # `place` refuses runs without one
            opened, known, code, remarks = await asyncio.gather(
                self.attempts.open(run, found.name, results_of(plan), plan.spec.relay),
                self.knowledge.of(run, plan.deployment),
                self._code(plan.bundle, plan.deployment),
                self.clusters.remarks(found.name),
            )
            order = self._order(run, plan, opened, known, code)
            reached("ordering")
            self.drivers.send(found.name, order.model_copy(update={"remarks": remarks}))
        reached("sent")
        log.get().info("run_sent", run=run.id, attempt=run.attempt, cluster=found.name)
        return SentRun(id=run.id, attempt=run.attempt, cluster=found.name, lease=run.lease)

    def _order(
        self, run: ClaimedRun, plan: Placement, opened: Opened, known: Known, code: BundleCode | PrefectCode
    ) -> Order:
        assert plan.deployment is not None
        return Order(
            run_id=run.id,
            run_name=run.due.name,
            flow_name=plan.deployment.flow_name,
            attempt=opened.attempt,
            token=opened.token,
            start_at=run.due.due_at.timestamp(),
            code=code,
            env={**({"PREFECT_UI_URL": self.ui_url} if self.ui_url else {}), **plan.env},
            secret_env=tuple(sorted(plan.secret_env)),
            dask=plan.spec.has_workers,
            results=results_of(plan),
            memory_limit_bytes=plan.memory_limit_bytes,
            flow_run=known.flow_run,
            related=known.related,
            default_result_storage=known.default_result_storage,
            is_default_result_storage_known=known.is_default_result_storage_known,
            seal=opened.seal,
        )

    async def _code(self, ref: BundleRef | None, deployment: Deployment) -> BundleCode | PrefectCode:
        if ref is None:
            return PrefectCode()
        return BundleCode(
            fetch=await self.shelf.fetch(ref),
            ref=ref,
            public_keys=self.public_keys,
            deployment=f"{deployment.flow_name}/{deployment.name}",
            version=deployment.version,
        )


def results_of(plan: Placement) -> str | None:
    """Where the run's results go: beside the bundle's folder `flows/` in its store. None without a bundle."""
    if plan.bundle is None:
        return None
    store, found, _ = str(plan.bundle.address).rpartition("/flows/")
    folder = store if found else str(plan.bundle.address).rpartition("/")[0]
    return f"{folder}/results/{slug(plan.spec.flow_name)}"
