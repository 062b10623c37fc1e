"""
What has to be there before a daemon can serve: the pool, the clusters that it takes over, its name in Prefect's list.

An API or a backend that does not answer is waited for; one that answers that it will not ends the daemon.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowgroup import log
from flowgroup.daemon.clusters import Clusters
from flowgroup.edge.events import Events
from flowgroup.edge.fence import Fence
from flowgroup.edge.pools import Pool
from flowgroup.edge.prefect import Prefect
from flowgroup.errors import FlowgroupError, Permanent, Refused, Transient
from flowgroup.retry import pause_s, until
from flowgroup.settings import DaemonSettings

_GOODBYE_TIMEOUT_S = 3.0
_SAID_AGAIN_S = 30.0


async def pool_there(api: Prefect, url: str | None) -> Pool:
    """The pool, as soon as the API answers. Raises Permanent when it answers that it will not."""
    tries, said_at = 0, 0.0
    while True:
        try:
            return await api.ensure_pool()
        except Transient as exc:
            tries += 1
            now = asyncio.get_running_loop().time()
            if tries == 1 or now - said_at > _SAID_AGAIN_S:
                said_at = now
                log.get().warning("api_unreachable", PREFECT_API_URL=url, reason=str(exc), then="trying again")
            await asyncio.sleep(pause_s(tries, exc.retry_after_s))
        except Refused:
            raise
        except Permanent as exc:
            raise Refused(str(exc)) from exc


async def clusters_there(clusters: Clusters) -> None:
    """
    Take over what there is, as soon as the backend says it: without that every run that a driver has would look lost.

    Raises Permanent when the backend answers that it will not.
    """
    tries = 0
    while True:
        try:
            await clusters.adopt()
        except Transient as exc:
            tries += 1
            if tries == 1:
                log.get().warning("clusters_not_found_yet", reason=str(exc), then="trying again")
            await asyncio.sleep(pause_s(tries, exc.retry_after_s))
        else:
            return


async def made_again(api: Prefect, events: Events | None) -> None:
    """Make the pool anew: somebody has deleted it."""
    pool = await api.ensure_pool()
    api.forget_cached()
    if events is not None:
        events.follow(pool.id)


@asynccontextmanager
async def registered(api: Prefect, worker: str, fence: Fence) -> AsyncIterator[str]:
    """Our worker's name. When we go in peace, it goes from Prefect's list too; it is also that of who stands by for us."""
    yield worker
    if not fence.is_open:
        return
    try:
        async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
            await until(lambda: api.remove_worker(worker), timeout_s=_GOODBYE_TIMEOUT_S)
    except (FlowgroupError, TimeoutError) as exc:
        log.get().warning("worker_not_removed", worker=worker, reason=str(exc))


def worker_name(daemon: DaemonSettings, pool: str) -> str:
    """Prefect takes no / and no % in it."""
    return re.sub(r"[/%]", "-", daemon.name or f"flowgroup {pool} {socket.gethostname()}")
