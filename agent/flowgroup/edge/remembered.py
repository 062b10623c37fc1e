"""
What the daemon asks Prefect's API for again and again, and remembers: the pool, deployments, flows, queues.

Deployments and the pool are remembered for seconds. While the event stream tells of their changes it is minutes, except
for what was read shortly after a change: the server tells of it before it has committed it.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from flowgroup.edge.cached import Cached
from flowgroup.edge.pools import Pool
from flowgroup.edge.shapes import DeploymentAnswer, FlowAnswer, PoolAnswer, QueueAnswer, StorageAnswer, one
from flowgroup.edge.wire import Wire
from flowgroup.model.ids import DeploymentId, FlowId
from flowgroup.model.runs import Deployment

_UNTOLD_TTL_S = 5.0
_TOLD_TTL_S = 300.0
_SETTLED_AFTER_S = 30.0
_FLOW_TTL_S = 3600.0
_QUEUE_TTL_S = 300.0
_STORAGE_TTL_S = 60.0


class Remembered:
    """The part of one Prefect API that is remembered, seen from one work pool."""

    def __init__(self, wire: Wire, pool: str) -> None:
        self._wire = wire
        self.pool = pool
        self._pool_path = f"/work_pools/{quote(pool, safe='')}"
        self._is_told_of_changes: Callable[[], bool] = lambda: False
        self._changed_at = -math.inf
        self._flows = Cached(self._read_flow, ttl_s=_FLOW_TTL_S)
        self._queues = Cached(self._read_queue_name, ttl_s=_QUEUE_TTL_S)
        self._storage = Cached(self._read_storage, ttl_s=_STORAGE_TTL_S)
        self._deployments = Cached(self._read_deployment, ttl_s=self._ttl_s)
        self._pools = Cached(self._read_pool, ttl_s=self._ttl_s)

    async def template(self) -> dict[str, Any]:
        """The pool's base job template."""
        return (await self.known_pool()).template

    async def known_pool(self) -> Pool:
        return await self._pools.get(self.pool)

    async def queue_name(self, queue_id: str) -> str:
        """A work queue's name, at most some minutes old."""
        return await self._queues.get(queue_id)

    async def default_result_storage(self) -> str | None:
        """The id of the block that the server keeps results in by default; None if it names none."""
        return (await self._storage.get("")).default_result_storage_block_id

    async def deployment(self, deployment_id: DeploymentId, version: str | None = None) -> Deployment:
        """
        A deployment, and never older than `version` if that is another than the known one.

        Raises NotFound.
        """
        known = await self._deployments.get(deployment_id)
        if version is None or known.version == version:
            return known
        self._deployments.drop(deployment_id)
        return await self._deployments.get(deployment_id)

    async def deployment_named(self, name: str) -> DeploymentId:
        """The id of `flow/name`. Raises NotFound."""
        path = "/".join(quote(part, safe="") for part in name.split("/", 1))
        answer = await self._wire.call("GET", f"/deployments/name/{path}", route="/deployments/name/{flow}/{name}")
        return DeploymentId(one(DeploymentAnswer, answer, f"the deployment {name}").id)

    def trust(self, is_told_of_changes: Callable[[], bool]) -> None:
        """While `is_told_of_changes`, every change is followed by `forget_cached`."""
        self._is_told_of_changes = is_told_of_changes

    def forget_cached(self) -> None:
        """A deployment, the pool or a queue has changed, or may have: read them anew."""
        self._changed_at = asyncio.get_running_loop().time()
        self._deployments.drop()
        self._pools.drop()
        self._queues.drop()

    # Inside

    def _ttl_s(self, asked_at: float) -> float:
        is_settled = asked_at >= self._changed_at + _SETTLED_AFTER_S
        return _TOLD_TTL_S if is_settled and self._is_told_of_changes() else _UNTOLD_TTL_S

    async def _read_pool(self, name: str) -> Pool:
        answer = await self._wire.call("GET", self._pool_path, route="/work_pools/{name}")
        pool = one(PoolAnswer, answer, f"the work pool {name!r}")
        return Pool(pool.id, pool.name, pool.base_job_template)

    async def _read_deployment(self, deployment_id: DeploymentId) -> Deployment:
        answer = await self._wire.call("GET", f"/deployments/{deployment_id}", route="/deployments/{id}")
        told = one(DeploymentAnswer, answer, f"the deployment {deployment_id}")
        flow = await self._flows.get(FlowId(told.flow_id))
        return Deployment(
            id=DeploymentId(told.id),
            name=told.name,
            flow_id=FlowId(told.flow_id),
            flow_name=flow.name,
            version=told.version,
            entrypoint=told.entrypoint,
            pull_steps=tuple(told.pull_steps or ()),
            job_variables=told.job_variables or {},
            tags=tuple(told.tags),
            flow_tags=tuple(flow.tags),
            labels=told.labels(),
        )

    async def _read_flow(self, flow_id: FlowId) -> FlowAnswer:
        answer = await self._wire.call("GET", f"/flows/{flow_id}", route="/flows/{id}")
        return one(FlowAnswer, answer, f"the flow {flow_id}")

    async def _read_queue_name(self, queue_id: str) -> str:
        answer = await self._wire.call("GET", f"/work_queues/{queue_id}", route="/work_queues/{id}")
        return one(QueueAnswer, answer, f"the work queue {queue_id}").name

    async def _read_storage(self, _: str) -> StorageAnswer:
        answer = await self._wire.call("GET", "/admin/storage")
        return one(StorageAnswer, answer, "the default result storage")
