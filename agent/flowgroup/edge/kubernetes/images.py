"""Which images a cluster's pods really run, by kubelet's word; and whether one name has become several images. Pure."""

from collections.abc import Sequence

from flowgroup.edge.kubernetes.names import DRIVER
from flowgroup.edge.kubernetes.seen import Pod
from flowgroup.model.image import parse
from flowgroup.model.orders import Remark

_REMEDY = (
    "Name it by digest (…@sha256:…), or set FLOWGROUP_KUBERNETES_IMAGE_PULL_POLICY=Always, so that a cluster has one."
)


def pinned(images: Sequence[str]) -> tuple[Remark, ...]:
    """Where all names have a digest they say it themselves, and no pod need be looked at. The driver's comes first."""
    is_said = all((name := parse(image)) and name.digest for image in images)
    return (Remark(text=f"Image: {images[0]}"),) if is_said else ()


def remarks(pods: Sequence[Pod]) -> tuple[Remark, ...]:
    """The driver's image, and a warning for every name that stands for more than one here."""
    found: dict[str, dict[str, list[str]]] = {}
    for pod in pods:
        if pod.image_id:
            found.setdefault(pod.image, {}).setdefault(pod.image_id, []).append(pod.role)
    own = [Remark(text=f"Image: {_named(pod)}") for pod in pods if pod.role == DRIVER and pod.image_id]
    differing = [_differing(image, ids) for image, ids in sorted(found.items()) if len(ids) > 1]
    return (*own, *differing)


def _differing(image: str, ids: dict[str, list[str]]) -> Remark:
    told = "; ".join(f"{_counted(roles)}: {image_id}" for image_id, roles in sorted(ids.items()))
    return Remark(
        text=f"The image {image} is not the same in all pods of this cluster: {told}. {_REMEDY}", is_warning=True
    )


def _counted(roles: list[str]) -> str:
    return ", ".join(role if roles.count(role) == 1 else f"{roles.count(role)} {role}s" for role in sorted(set(roles)))


def _named(pod: Pod) -> str:
    """By digest it is the same image, whatever else the two names say."""
    digest = pod.image_id.partition("@")[2]
    return pod.image if digest and pod.image.endswith(f"@{digest}") else f"{pod.image} ({pod.image_id})"
