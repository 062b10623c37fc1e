"""Names of things. Each NewType is made by one function, or comes from Prefect's API as it is."""

import hashlib
import re
import uuid
from typing import NewType

RunId = NewType("RunId", str)
"""A Prefect flow run's id (a UUID)."""
AttemptId = NewType("AttemptId", str)
"""One claim of a run: the `transition_id` of its Scheduled to Pending transition (a UUID)."""
FlowId = NewType("FlowId", str)
DeploymentId = NewType("DeploymentId", str)
ClusterName = NewType("ClusterName", str)
"""The cluster of one generation: `<flow slug>-<hash>`, at most 45 characters, a valid DNS label."""
RelayName = NewType("RelayName", str)
"""The address of a relay, as specs name it; `FIRST_RELAY` for the one that serves all who name none."""
FIRST_RELAY = RelayName("")
Token = NewType("Token", str)
"""An attempt's opaque bearer token. Never logged."""

_SLUG_MAX = 32
_TAG_HEX = 12  # how many hex digits of an attempt's id say whose it is


def slug(text: str) -> str:
    """A DNS label of at most 32 characters that resembles `text`; `flow` if nothing of it can be kept."""
    kept = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_SLUG_MAX].strip("-")
    return kept or "flow"


def digest(*parts: str) -> str:
    """A sha256 in hex over the parts, unambiguous about where each ends."""
    whole = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        whole.update(len(raw).to_bytes(8, "big") + raw)
    return whole.hexdigest()


def new_attempt(owner: str, random: uuid.UUID) -> AttemptId:
    """
    An attempt's id: a valid UUID whose first twelve hex digits are a hash of `owner`.

    A claim leaves the id in the run's state history, so that a daemon without any memory of its own can tell its
    runs from other agents' runs (`made_by`).
    """
    hexes = digest("attempt", owner)[:_TAG_HEX] + "4" + random.hex[_TAG_HEX + 1 :]
    return AttemptId(str(uuid.UUID(hexes)))


def made_by(owner: str, attempt: str) -> bool:
    """Whether `attempt` was made by `new_attempt` for this owner."""
    return attempt.replace("-", "")[:_TAG_HEX] == digest("attempt", owner)[:_TAG_HEX]
