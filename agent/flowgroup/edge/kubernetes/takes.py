"""What a cluster's pods ask for together, at most. Pure: read from the very manifests that it is made with."""

from typing import Any

from flowgroup.edge.kubernetes import pods
from flowgroup.edge.kubernetes.names import Ground
from flowgroup.edge.kubernetes.sizes import is_gpu
from flowgroup.model.clusters import Takes
from flowgroup.model.spec import ClusterSpec

Json = dict[str, Any]


def takes(spec: ClusterSpec, ground: Ground) -> Takes:
    """Raises Refused for a size that the catalogue does not have."""
    default, *more = spec.groups
    crews = [
        (default.most, None),
        *((numbers.most, one) for numbers, one in zip(more, spec.worker_groups, strict=True)),
    ]
    made = [(1, pods.driver(spec, ground)), (1, pods.dask_scheduler(spec, ground))]
    made += [(count, pods.worker(spec, group, ground)) for count, group in crews if count]
    asked = [(count, _resources(pod)) for count, pod in made]
    return Takes(
        pods=sum(count for count, _ in asked),
        cpu=round(sum(count * _cpus(all_of.get("cpu", "0")) for count, all_of in asked), 3),
        gpu=sum(count * _cpus(amount) for count, all_of in asked for name, amount in all_of.items() if is_gpu(name)),
    )


def _resources(pod: Json) -> dict[str, str]:
    """A pod has one container of weight. Of CPU what is requested counts, of other resources their limit is the request."""
    resources = pod["containers"][0]["resources"]
    return {**resources["limits"], **resources["requests"]}


def _cpus(quantity: str) -> float:
    return float(quantity.removesuffix("m")) / 1000 if quantity.endswith("m") else float(quantity)
