"""
What a daemon that has lost its memory gets back from drivers: each order carries its attempt, sealed, and a driver that dials
shows the seals of what it has.

A seal says which attempt was given to which cluster, with the token's hash and the folder of its results. Only who has the
control key can make one: no cluster can speak for a run that was given to another, or widen what its own run may do.
"""

import base64
import hmac
import json
from dataclasses import asdict

from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.model.ids import ClusterName


class Seals:
    def __init__(self, key: str) -> None:
        self._key = hmac.digest(key.encode(), b"flowgroup: seals of attempts", "sha256")

    def seal(self, attempt: OpenAttempt) -> str:
        said = base64.urlsafe_b64encode(json.dumps(asdict(attempt)).encode())
        return f"{said.decode()}.{self._mac(said)}"

    def opened(self, seal: str, shown_by: ClusterName) -> OpenAttempt | None:
        """The attempt, if we sealed it for that cluster."""
        said, _, mac = seal.encode("utf-8", "replace").decode().partition(".")
        if not hmac.compare_digest(self._mac(said.encode()).encode(), mac.encode()):
            return None
        try:
            attempt = OpenAttempt(**json.loads(base64.urlsafe_b64decode(said)))
        except TypeError:  # another version of ours wrote it
            return None
        return attempt if attempt.cluster == shown_by else None

    def _mac(self, said: bytes) -> str:
        return hmac.digest(self._key, said, "sha256").hex()
