"""
A deployment's images by digest: what a tag stands for when it is deployed is what runs, also when the tag has moved.

The tag stays in the name, for people: `repo:tag@sha256:…`, of which Kubernetes' container runtimes take the digest.
Where nobody tells a digest in time the tag stays alone, and one line says so.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from flowgroup.edge.registry.digest import digest_of
from flowgroup.edge.registry.login import login
from flowgroup.errors import FlowgroupError, Permanent, Transient
from flowgroup.model.image import parse

TIMEOUT_S = 5.0
_LATE = Transient("its registry does not answer in time")
_UNKNOWN = (
    "The image %s is not pinned to a digest: %s. Runs take what the tag stands for when it is pulled, and a node that "
    "has an image of that name keeps it."
)
_log = logging.getLogger("flowgroup.deploy")


def pinned(said: Mapping[str, Any], docker: Path) -> dict[str, Any]:
    """
    Job variables with each image by digest, the groups' too, where its registry tells it. `docker` has docker's
    config.json.

    All registries are asked at once, for at most five seconds.
    """
    groups = said.get("worker_groups") or ()
    wanted = {image for image in (said.get("image"), *map(_image, groups)) if image}
    digests = _known(sorted(wanted), docker)
    values = dict(said)
    if said.get("image") in digests:
        values["image"] = digests[said["image"]]
    if groups:
        values["worker_groups"] = [
            {**group, "image": digests[image]} if (image := _image(group)) in digests else group for group in groups
        ]
    return values


def _image(group: Any) -> str | None:
    return group.get("image") if isinstance(group, Mapping) else None


def _known(images: list[str], docker: Path) -> dict[str, str]:
    """
    The names with their digests, of those that are told in time.

    Nobody waits for a thread that takes longer: to look up a host's name there is no deadline.
    """
    found: dict[str, str | FlowgroupError] = {}
    asking = [Thread(target=_ask, args=(image, docker, found), daemon=True) for image in images]
    deadline = time.monotonic() + TIMEOUT_S
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    told = {image: found.get(image, _LATE) for image in images}
    for image, reason in told.items():
        if isinstance(reason, FlowgroupError):
            _log.warning(_UNKNOWN, image, reason)
    return {image: name for image, name in told.items() if isinstance(name, str)}


def _ask(image: str, docker: Path, found: dict[str, str | FlowgroupError]) -> None:
    try:
        found[image] = _by_digest(image, docker)
    except FlowgroupError as exc:
        found[image] = exc
    except (OSError, ValueError) as exc:  # what the environment says of proxies and certificates is read there too
        found[image] = Permanent(f"its registry cannot be asked ({exc})")


def _by_digest(image: str, docker: Path) -> str:
    name = parse(image)
    if name is None:
        raise Permanent("this is no image's name, or is known only once a run is planned")
    if name.digest is not None:
        return image
    if name.host is None:
        raise Permanent("its name does not say which registry it comes from, as registry.example/team/image:tag does")
    digest = digest_of(name, lambda host: login(host, docker), timeout_s=TIMEOUT_S)
    return f"{image}@{digest}"
