"""
What a claimed run waits for, said in its state while it waits.

A node may take minutes to come, and a size that no node has is waited for too: somebody has to see why. The run stays Pending
and keeps its concurrency slot.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Protocol

from flowgroup import log
from flowgroup.errors import FlowgroupError, NoRoom, Transient
from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.runs import ClaimedRun

_FIRST_S = 10.0
_EVERY_S = 10.0
_GOODBYE_S = 3.0
_NAMES = ("InfrastructurePending", "WaitingForInfrastructure")  # in turn: Prefect takes no state over one of its name


class Api(Protocol):
    async def say_waiting(self, run_id: RunId, name: str, message: str) -> bool: ...


class Clusters(Protocol):
    async def why_waiting(self, name: ClusterName) -> str | None: ...


@asynccontextmanager
async def said_meanwhile(
    api: Api, clusters: Clusters, run: ClaimedRun, cluster: ClusterName, trouble: Callable[[], Transient]
) -> AsyncIterator[None]:
    """
    During the block, from some seconds on, the run's state has the reason whenever it is another one.

    `trouble` is what sending the run met last; of a cluster that a quota does not let us make nobody else knows why.
    """
    over = asyncio.Event()

    async def why() -> str | None:
        reason, met = await clusters.why_waiting(cluster), trouble()
        return str(met) if reason is None and isinstance(met, NoRoom) else reason

    saying = asyncio.create_task(_say(api, why, run, cluster, over), name=f"why {run.id} waits")
    try:
        yield
    finally:  # a call under way is carried out: cut off, it might be late and come after what the run says itself
        over.set()
        await asyncio.wait([saying], timeout=_GOODBYE_S)
        saying.cancel()


async def _say(
    api: Api, why: Callable[[], Awaitable[str | None]], run: ClaimedRun, cluster: ClusterName, over: asyncio.Event
) -> None:
    names, said = cycle(_NAMES), None
    wait_s = _FIRST_S
    while not await _is_over(over, wait_s):
        wait_s = _EVERY_S
        reason = await why()
        if reason is None or reason == said or over.is_set():
            continue
        try:
            if not await api.say_waiting(run.id, next(names), reason):
                return
            said = reason
            log.get().info("run_waits", run=run.id, cluster=cluster, reason=reason)
        except FlowgroupError as exc:
            log.get().warning("run_waits_untold", run=run.id, reason=str(exc))


async def _is_over(over: asyncio.Event, wait_s: float) -> bool:
    try:
        async with asyncio.timeout(wait_s):
            await over.wait()
    except TimeoutError:
        return False
    return True
