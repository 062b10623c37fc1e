"""
A cluster's end: everything of it is deleted, and nothing of it runs any more.

The operator keeps a finalizer on each DaskCluster. While it is down nothing would go, so after a while it is done for it.
"""

import asyncio

from flowgroup import log
from flowgroup.edge.kubernetes import seen
from flowgroup.edge.kubernetes.client import (
    CONFIG_MAPS,
    DASK_CLUSTERS,
    DASK_WORKER_GROUPS,
    DEPLOYMENTS,
    NETWORK_POLICIES,
    PODS,
    SECRETS,
    SERVICES,
    Client,
    Exists,
    NotThere,
)
from flowgroup.edge.kubernetes.names import CLUSTER, MANAGED_BY, driver_pod
from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName

_LOOK_S = 0.25
_LOOK_SELDOM_S = 1.0
_LONG_S = 5.0
_TIMEOUT_S = 60.0  # after the operator's time: a pod on a lost node ends when Kubernetes gives the node up
_OPERATORS = "kopf."


async def remove(client: Client, name: ClusterName, *, operator_timeout_s: float) -> None:
    """
    Returns when the DaskCluster and all pods are gone, the operator up or not. What is not there is gone already.

    Raises Transient when pods are left a minute after the operator's time.
    """
    clock = asyncio.get_running_loop().time
    began, is_forced = clock(), False
    await client.delete(PODS, driver_pod(name))  # with its time to end its runs' processes
    await client.delete(DASK_CLUSTERS, name, foreground=True)
    while left := await _left(client, name):
        waited_s = clock() - began
        if waited_s > operator_timeout_s and not is_forced:
            log.get().warning(
                "cluster_deleted_by_force", cluster=name, left=left, operator_timeout_s=operator_timeout_s
            )
            await _force(client, name)
            is_forced = True
        if waited_s > operator_timeout_s + _TIMEOUT_S:
            raise Transient(f"cluster {name} is deleted, but still there: {', '.join(left)}. Is their node lost?")
        await asyncio.sleep(_LOOK_S if waited_s < _LONG_S else _LOOK_SELDOM_S)
    for kind, ours in (
        (NETWORK_POLICIES, (name, f"{name}-driver", f"{name}-operator", f"{name}-dashboard")),
        (CONFIG_MAPS, (name,)),
        (SECRETS, (name,)),
    ):
        for (
            one
        ) in ours:  # their owner is gone, and so they go too; but the next cluster of this name is not to meet them
            await client.delete(kind, one)


async def _left(client: Client, name: ClusterName) -> list[str]:
    pods = [item["metadata"]["name"] for item in (await client.listed(PODS, _of(name), metadata_only=True)).items]
    try:
        await client.get(DASK_CLUSTERS, name)
    except NotThere:
        return pods
    return [f"daskcluster/{name}", *pods]


async def _force(client: Client, name: ClusterName) -> None:
    """What the operator and the garbage collector would do."""
    for kind in (DASK_WORKER_GROUPS, DEPLOYMENTS, SERVICES, PODS):
        for item in (await client.listed(kind, _of(name), metadata_only=True)).items:
            await client.delete(kind, item["metadata"]["name"])
    try:
        owner = seen.owner(await client.get(DASK_CLUSTERS, name))
        kept = [finalizer for finalizer in owner.finalizers if not finalizer.startswith(_OPERATORS)]
        await client.merge(DASK_CLUSTERS, name, {"metadata": {"finalizers": kept, "resourceVersion": owner.version}})
    except (NotThere, Exists):  # it is gone, or the operator is back
        return


def _of(name: ClusterName) -> str:
    return f"{MANAGED_BY}=flowgroup,{CLUSTER}={name}"
