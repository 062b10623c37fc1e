"""
A cluster as objects of Kubernetes. Pure: the same spec on the same ground gives the same objects.

The DaskCluster comes first, for all else names it as its owner and goes with it. Everything carries the labels by which it is
found again.
"""

import base64
from typing import Any

from flowgroup.edge.kubernetes import network, pods
from flowgroup.edge.kubernetes.extras import START_KEY, secret_data
from flowgroup.edge.kubernetes.names import (
    CLUSTER,
    DASK_COMPONENT,
    DRIVER,
    KEY,
    MANAGED_BY,
    POOL,
    ROLE,
    SCHEDULER,
    WORKER,
    Ground,
    annotations,
    driver_pod,
    labels,
    worker_group,
)
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup

Json = dict[str, Any]
_DASK = "kubernetes.dask.org/v1"
# An autoscaler of nodes that wants to save one must not take a run's process for it.
_STAYS = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def dask_cluster(spec: ClusterSpec, ground: Ground) -> Json:
    """
    The DaskCluster with its default group of workers. Raises Refused for a size that there is not, and without an image.

    `idleTimeout` is 0: the operator's way of asking how long a cluster has been idle ends clusters that are in use.
    """
    service = {
        "type": "ClusterIP",
        "selector": {CLUSTER: spec.name, DASK_COMPONENT: SCHEDULER},
        "ports": [
            _port("tcp-comm", pods.SCHEDULER_PORT),  # the operator looks for these two names
            _port("http-dashboard", pods.DASHBOARD_PORT),
            _port("levels", pods.LEVELS_PORT),
        ],
    }
    replicas = spec.groups[0].first  # one process a pod, so that one that dies takes no other along
    return {
        "apiVersion": _DASK,
        "kind": "DaskCluster",
        "metadata": _metadata(spec, ground, spec.name),
        "spec": {
            "idleTimeout": 0,
            "scheduler": {
                "metadata": {"labels": {ROLE: SCHEDULER}, "annotations": _STAYS},
                "spec": pods.dask_scheduler(spec, ground),
                "service": service,
            },
            "worker": {
                "replicas": replicas,
                "metadata": {"labels": {ROLE: WORKER}},
                "spec": pods.worker(spec, None, ground),
            },
        },
    }


def owned(spec: ClusterSpec, ground: Ground, *, uid: str, secret: str, key: str) -> list[Json]:
    """
    All else, in the order in which it is made. `uid` is the DaskCluster's; `secret` what the driver says hello with, and
    `key` a word about what that was made from.

    The ConfigMap with the spec is what makes a cluster whole, and the driver's pod comes last: it finds all that it needs.
    """
    made = [_secret(spec, ground, secret), *_policies(spec, ground)]
    made += [_worker_group(spec, group, ground) for group in spec.worker_groups]
    made += [_config_map(spec, ground, key), _driver(spec, ground)]
    for manifest in made:
        manifest["metadata"]["ownerReferences"] = [_owner(spec, uid)]
    return made


def selector(pool_label: str, **more: str) -> str:
    """A label selector for what is ours in a pool."""
    said = {MANAGED_BY: "flowgroup", POOL: pool_label, **more}
    return ",".join(f"{name}={value}" for name, value in said.items())


def _secret(spec: ClusterSpec, ground: Ground, secret: str) -> Json:
    said = {pods.SECRET_KEY: secret, **secret_data(spec)}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in said.items()}
    metadata = _metadata(spec, ground, spec.name)
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}


def _config_map(spec: ClusterSpec, ground: Ground, key: str) -> Json:
    metadata = _metadata(spec, ground, spec.name)
    metadata["annotations"][KEY] = key
    data = {pods.SPEC_KEY: spec.model_dump_json()} | ({START_KEY: spec.start_script} if spec.start_script else {})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _policies(spec: ClusterSpec, ground: Ground) -> list[Json]:
    if not ground.settings.network_policy:
        return []
    specs = {
        spec.name: network.whole(spec.name, ground),
        f"{spec.name}-driver": network.of_driver(spec.name, ground, spec.relay),
    }
    if ground.settings.operator_namespace:
        specs[f"{spec.name}-operator"] = network.of_operator(spec.name, ground.settings.operator_namespace)
    if spec.has_workers and (seen := network.of_dashboard(spec.name, ground)):
        specs[f"{spec.name}-dashboard"] = seen
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(spec, ground, name),
            "spec": policy,
        }
        for name, policy in specs.items()
    ]


def _worker_group(spec: ClusterSpec, group: WorkerGroup, ground: Ground) -> Json:
    worker = {
        "replicas": group.count,
        "metadata": {"labels": {ROLE: WORKER}},
        "spec": pods.worker(spec, group, ground),
    }
    return {
        "apiVersion": _DASK,
        "kind": "DaskWorkerGroup",
        "metadata": _metadata(spec, ground, worker_group(spec.name, group.name)),
        "spec": {"cluster": spec.name, "worker": worker},
    }


def _driver(spec: ClusterSpec, ground: Ground) -> Json:
    metadata = _metadata(spec, ground, driver_pod(spec.name), **{ROLE: DRIVER})
    metadata["annotations"] |= _STAYS
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pods.driver(spec, ground)}


def _metadata(spec: ClusterSpec, ground: Ground, name: str, **more: str) -> Json:
    return {
        "name": name,
        "namespace": ground.namespace,
        "labels": labels(spec.name, ground.pool, **more),
        "annotations": annotations(spec, ground.pool),
    }


def _owner(spec: ClusterSpec, uid: str) -> Json:
    """Without `blockOwnerDeletion`, which some clusters allow only to who may change the owner's finalizers."""
    return {"apiVersion": _DASK, "kind": "DaskCluster", "name": spec.name, "uid": uid}


def _port(name: str, port: int) -> Json:
    return {"name": name, "protocol": "TCP", "port": port, "targetPort": name}
