"""
An attempt's token: opaque, but that who has the control key can tell one that was made with it, and by which daemon.

So a relay that has not heard of a daemon yet keeps its runs waiting, and refuses at once what nobody made.
"""

import hmac
import secrets

from flowgroup.model.ids import Token


def new_token(daemon: str, key: str) -> Token:
    """`<daemon>.<random>.<proof>`. `daemon` is a name without dots."""
    said = f"{daemon}.{secrets.token_urlsafe(32)}"
    return Token(f"{said}.{_proof(said, key)}")


def daemon_of(token: str, key: str) -> str | None:
    """The daemon that made the token; None if nobody did who has the control key."""
    said, _, proof = token.rpartition(".")
    shown, wanted = proof.encode("utf-8", "replace"), _proof(said, key).encode()
    return said.partition(".")[0] if "." in said and hmac.compare_digest(shown, wanted) else None


def _proof(said: str, key: str) -> str:
    own = hmac.digest(key.encode(), b"flowgroup: tokens of attempts", "sha256")
    return hmac.digest(own, said.encode("utf-8", "surrogatepass"), "sha256").hex()[:32]
