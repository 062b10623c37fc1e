"""Who is calling? From a token to an open attempt."""

import base64
import binascii
import hmac
from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

from flowgroup.edge import forward
from flowgroup.relay.tokens import Attempts, OpenAttempt

NOT_KNOWN_YET = "the relay has just started and does not know the open runs yet"
NOT_OPEN = "this run's attempt is not open: it has ended, or another attempt of the run has taken its place"


def shown_token(headers: Mapping[str, str]) -> str | None:
    """
    The token that a call shows: `Bearer <token>`, or Basic with the token alone or as the password.

    Prefect's client sends its key as Bearer and its auth string as Basic; its websockets know only the auth
    string.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text.rpartition(":")[2] or None


def admit(attempts: Attempts, headers: Mapping[str, str]) -> OpenAttempt | Response:
    """The attempt that is calling, or what to answer instead."""
    if not attempts.known:
        return forward.away(NOT_KNOWN_YET)
    token = shown_token(headers)
    attempt = attempts.find(token) if token else None
    if attempt is None and token and attempts.may_be_open(token):
        return forward.away(NOT_KNOWN_YET)
    if attempt is None:
        # Whoever is nobody keeps no connection.
        return JSONResponse({"detail": NOT_OPEN if token else "no token was shown"}, 401, {"connection": "close"})
    return attempt


def shows_key(headers: Mapping[str, str], control_key: str) -> bool:
    """Whether a call shows the control key."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), control_key.encode())
