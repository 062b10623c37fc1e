"""
What a run's child would ask the API before it starts, and the daemon knows already.

In: a claimed run and its deployment. Out: Known. What cannot be had in time is left out, and the child asks itself.
"""

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from flowgroup.edge.pools import Pool
from flowgroup.errors import FlowgroupError
from flowgroup.model.runs import ClaimedRun, Deployment, DueRun, Known

T = TypeVar("T")
_TIMEOUT_S = 1.0
_LARGEST_RUN_CHARS = 1024 * 1024  # parameters may be large, and an order is one line


class Api(Protocol):
    async def known_pool(self) -> Pool: ...
    async def queue_name(self, queue_id: str) -> str: ...
    async def default_result_storage(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Knowledge:
    api: Api

    async def of(self, run: ClaimedRun, deployment: Deployment) -> Known:
        pool, queue, storage = await asyncio.gather(
            _had(self.api.known_pool()), _had(self._queue(run.due)), _had(self.api.default_result_storage())
        )
        return Known(
            flow_run=flow_run_of(run, pool[0], queue[0]) if pool and queue else None,
            related=related_to(run.due, deployment, pool[0], queue[0]) if pool and queue else None,
            default_result_storage=storage[0] if storage else None,
            is_default_result_storage_known=storage is not None,
        )

    async def _queue(self, due: DueRun) -> str | None:
        return await self.api.queue_name(due.work_queue_id) if due.work_queue_id else None


def flow_run_of(run: ClaimedRun, pool: Pool, queue: str | None) -> dict[str, Any] | None:
    """The run as `GET /flow_runs/{id}` would answer it now. None if the API has not told us all of it, or it is large."""
    if not run.due.told or not run.told or len(json.dumps(run.due.told)) > _LARGEST_RUN_CHARS:
        return None
    return {
        **run.due.told,
        "state": run.told,
        "state_id": run.told.get("id"),
        "state_type": run.told.get("type"),
        "state_name": run.told.get("name"),
        "next_scheduled_start_time": None,
        "work_pool_id": pool.id,
        "work_pool_name": pool.name,
        "work_queue_name": queue,
    }


def related_to(due: DueRun, deployment: Deployment, pool: Pool, queue: str | None) -> list[dict[str, Any]]:
    """What Prefect's `related_resources_from_run_context` finds for the run, without the run itself: in its order."""
    named = [
        ("flow", deployment.flow_id, deployment.flow_name, {}),
        ("deployment", deployment.id, deployment.name, deployment.labels),
        ("work-queue", due.work_queue_id, queue, {}),
        ("work-pool", pool.id, pool.name, {}),
    ]
    tags = sorted({*due.tags, *deployment.tags, *deployment.flow_tags})
    return [_resource(kind, str(id_), name, labels) for kind, id_, name, labels in named if name is not None] + [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags
    ]


def _resource(kind: str, id_: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "prefect.resource.id": f"prefect.{kind}.{id_}",
        "prefect.resource.role": kind,
        "prefect.resource.name": name,
        **labels,
    }


async def _had(asking: Awaitable[T]) -> tuple[T] | None:
    """The answer; None without one."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return (await asking,)
    except (FlowgroupError, TimeoutError):
        return None
