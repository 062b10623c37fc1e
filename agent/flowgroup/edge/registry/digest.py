"""
Which digest a tag stands for now, as OCI's distribution specification has it.

It blocks, for callers that may not start an event loop.
"""

import hashlib
import time

import httpx

from flowgroup.edge.registry import wire
from flowgroup.edge.registry.door import Door, Logins
from flowgroup.edge.registry.wire import Answer, Wire
from flowgroup.errors import Permanent, Transient
from flowgroup.model.image import DIGEST, ImageName

# Indexes too: the digest of what a tag stands for on all platforms, of which each node takes its own.
_MANIFESTS = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
}
_SECOND = 2
_BODY_SAYS_WHY = (httpx.codes.OK, httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED)


def digest_of(
    image: ImageName, logins: Logins, *, timeout_s: float, transport: httpx.BaseTransport | None = None
) -> str:
    """
    The digest, asked of the registry that the image's name has to have in it.

    `logins` tells who to be there, and is asked only if the registry wants to know. Raises Transient and Permanent,
    with the reason alone as text.
    """
    assert image.host is not None
    url = f"{wire.scheme_of(image.host)}://{image.host}/v2/{image.repository}/manifests/{image.tag}"
    with wire.client(transport) as client:
        door = Door(Wire(client, time.monotonic() + timeout_s), image, logins)
        answer = door.ask("HEAD", url, _MANIFESTS)
        said: str = answer.headers.get("Docker-Content-Digest", "")
        if answer.status == httpx.codes.OK and DIGEST.fullmatch(said):
            return said
        if answer.status in _BODY_SAYS_WHY:
            answer = door.ask("GET", url, _MANIFESTS)
    return _judged(answer)


def _judged(answer: Answer) -> str:
    """A whole manifest's digest, or why there is none. What any web server says is not taken for a registry's word."""
    if answer.status == httpx.codes.OK and answer.json().get("schemaVersion") == _SECOND:
        return f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    if answer.status == httpx.codes.NOT_FOUND and isinstance(answer.json().get("errors"), list):
        raise Permanent(
            "its registry has no such image, or hides it from who is not logged in: runs start only where a node has it "
            "or can pull it"
        )
    if answer.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Permanent(f"its registry does not let you see it ({answer.status}): is `docker login` needed?")
    if answer.status == httpx.codes.TOO_MANY_REQUESTS or answer.status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise Transient(f"its registry has no time for it ({answer.status})")
    raise Permanent(f"{answer.host} does not answer as a registry does ({answer.status})")
