"""
A state that was set, and whose answer was lost with a relay that was killed: the child sends it again, and must not hear that
it was rejected.
"""

import json
import uuid
from typing import Any


def as_accepted(proposed: bytes, answered: bytes) -> bytes | None:
    """
    What the first answer to this call of `set_state` was, if the API says that it has made this very transition already.

    Prefect's client gives each transition an id of its own and sends it again with the same one; a server that has it
    rejects the second one and shows the state that it has. None: the answer is as it should be.
    """
    answer = _object(answered)
    if answer.get("status") != "REJECT":
        return None
    wanted, there = _transition(_object(proposed)), _transition(answer)
    if wanted is None or wanted != there:
        return None
    return json.dumps({**answer, "status": "ACCEPT", "details": {"type": "accept_details"}}).encode()


def _transition(said: dict[str, Any]) -> uuid.UUID | None:
    state = said.get("state")
    details = state.get("state_details") if isinstance(state, dict) else None
    found = details.get("transition_id") if isinstance(details, dict) else None
    try:
        return uuid.UUID(found) if isinstance(found, str) else None
    except ValueError:
        return None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
