"""
A group's workers, more or fewer: the operator adds, and we remove.

The operator counts a group's Deployments when `replicas` of its DaskWorkerGroup changes, makes those that are missing, and of
too many ends whichever it likes, tasks and results with them. So it must never count too many: the Deployments of retired
workers go first, then `replicas` follows, and never down while the operator is still busy with a larger number.
"""

import json
from typing import Any

from flowgroup.edge.kubernetes.client import DASK_WORKER_GROUPS, DEPLOYMENTS, PODS, Client, Exists, NotThere
from flowgroup.edge.kubernetes.names import DASK_GROUP, worker_group
from flowgroup.model.ids import ClusterName

Json = dict[str, Any]
_HANDLED = "kopf.zalando.org/last-handled-configuration"
_WORKER = "DASK_WORKER_NAME"


async def scale(client: Client, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> bool:
    """
    Remove the retired workers, and those too many that have no node yet; then set how many there are to be. A worker is
    named as its Deployment. False: the operator has to act first.
    """
    whole = worker_group(name, group)
    try:
        before = await client.get(DASK_WORKER_GROUPS, whole)
    except NotThere:
        return False  # the operator makes the default group, when it comes to it
    labels = f"{DASK_GROUP}={whole}"
    there = {item["metadata"]["name"] for item in (await client.listed(DEPLOYMENTS, labels, metadata_only=True)).items}
    going = there & set(retired)
    spare = len(there - going) - wanted
    if spare > 0:
        going |= set((await _without_node(client, labels, there - going))[:spare])
    for worker in sorted(going):
        await client.delete(DEPLOYMENTS, worker)
    return await _set(client, before, max(wanted, len(there - going)))


async def _set(client: Client, before: Json, replicas: int) -> bool:
    """Only if nobody has changed it since: a smaller number is right for what we counted, and for nothing else."""
    now = before["spec"]["worker"].get("replicas")
    if now == replicas:
        return True
    metadata = before["metadata"]
    if replicas < now and _handled(metadata) != now:
        return False
    patch: Json = {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "spec": {"worker": {"replicas": replicas}},
    }
    try:
        await client.merge(DASK_WORKER_GROUPS, metadata["name"], patch)
    except (NotThere, Exists):
        return False
    return True


def _handled(metadata: Json) -> int | None:
    """For how many workers the operator has done its work; None if it has not said so yet."""
    try:
        said = json.loads((metadata.get("annotations") or {})[_HANDLED])
        return int(said["spec"]["worker"]["replicas"])
    except (KeyError, TypeError, ValueError):
        return None


async def _without_node(client: Client, labels: str, workers: set[str]) -> list[str]:
    """Those of these workers whose pod has no node, so that nothing can run there: a node would be made for them in vain."""
    placed = {_deployment_of(pod) for pod in (await client.listed(PODS, labels)).items if pod["spec"].get("nodeName")}
    return sorted(workers - placed)


def _deployment_of(pod: Json) -> str:
    """The name that the operator gave its worker. A pod's own name may be cut off, and all of a group have the same labels."""
    env = [entry for container in pod["spec"]["containers"] for entry in container.get("env") or ()]
    return next((str(entry.get("value")) for entry in env if entry["name"] == _WORKER), "")
