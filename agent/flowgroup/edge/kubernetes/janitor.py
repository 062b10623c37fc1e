"""
`flowgroup janitor`: removes clusters that no daemon keeps any more. A CronJob of the chart runs it.

It goes by the renewal time on each DaskCluster alone, and looks twice: when Kubernetes' API itself was away for long, no daemon
could renew anything, and each does so as soon as the API is back.
"""

import argparse
import asyncio
from collections.abc import Sequence

from flowgroup import log
from flowgroup.edge.kubernetes import lease, removal, seen
from flowgroup.edge.kubernetes.access import access
from flowgroup.edge.kubernetes.client import DASK_CLUSTERS, Client
from flowgroup.edge.kubernetes.names import FLOW_NAME, MANAGED_BY, POOL, POOL_NAME
from flowgroup.edge.kubernetes.seen import Owner
from flowgroup.errors import FlowgroupError

_log = log.get()
_OURS = f"{MANAGED_BY}=flowgroup,{POOL}"


def command(args: argparse.Namespace) -> int:
    """Look twice, and remove what is left over. Returns 1 when something of it could not be removed."""
    log.configure(room="janitor", level="info")
    there = access()
    clients = [Client(there, namespace) for namespace in args.namespaces or [""]]
    failed = asyncio.run(
        _sweep(clients, after_s=args.after_s, again_s=args.again_s, operator_timeout_s=args.operator_timeout_s)
    )
    return 1 if failed else 0


async def _sweep(clients: Sequence[Client], **how: float) -> bool:
    """Whether something failed. What is wrong in one namespace is said, and keeps no other back."""
    done = await asyncio.gather(*(sweep(client, **how) for client in clients), return_exceptions=True)
    for client, result in zip(clients, done, strict=True):
        await client.aclose()
        if isinstance(result, FlowgroupError):
            _log.error("namespace_not_swept", namespace=client.namespace, reason=str(result))
        elif isinstance(result, BaseException):
            raise result
    return any(done)


async def sweep(client: Client, *, after_s: float, again_s: float, operator_timeout_s: float) -> list[str]:
    """Remove what two looks, `again_s` apart, find abandoned. Gives the names of clusters that could not be removed."""
    if not await _abandoned(client, after_s):
        _log.info("nothing_to_remove", namespace=client.namespace)
        return []
    await asyncio.sleep(again_s)
    owners = await _abandoned(client, after_s)
    done = await asyncio.gather(*(_remove(client, owner, operator_timeout_s) for owner in owners))
    return [owner.name for owner, is_done in zip(owners, done, strict=True) if not is_done]


async def _abandoned(client: Client, after_s: float) -> list[Owner]:
    there = await client.listed(DASK_CLUSTERS, _OURS, metadata_only=True)
    found = []
    for item in there.items:
        owner = seen.owner(item)
        if lease.is_over(owner, there.at, after_s=after_s):
            found.append(owner)
            _log.warning("cluster_without_daemon", **_who(owner, item), silent_s=round(there.at - owner.renewed_at))
    return found


def _who(owner: Owner, item: dict[str, dict[str, dict[str, str]]]) -> dict[str, str]:
    noted = item["metadata"].get("annotations") or {}
    return {"cluster": owner.name, "pool": noted.get(POOL_NAME, ""), "flow": noted.get(FLOW_NAME, "")}


async def _remove(client: Client, owner: Owner, operator_timeout_s: float) -> bool:
    """A daemon that came back meanwhile has renewed it, and so made it another version: then it stays."""
    try:
        await client.delete(DASK_CLUSTERS, owner.name, foreground=True, uid=owner.uid, version=owner.version)
        if not await _is_going(client, owner):
            _log.info("cluster_kept", cluster=owner.name, reason="it was changed meanwhile: the next look decides")
            return True
        await removal.remove(client, owner.name, operator_timeout_s=operator_timeout_s)
    except FlowgroupError as exc:
        _log.error("cluster_not_removed", cluster=owner.name, reason=str(exc))
        return False
    _log.info("cluster_removed", cluster=owner.name)
    return True


async def _is_going(client: Client, owner: Owner) -> bool:
    items = (await client.listed(DASK_CLUSTERS, _OURS, metadata_only=True)).items
    now = next((one for one in map(seen.owner, items) if one.uid == owner.uid), None)
    return now is None or now.is_leaving
