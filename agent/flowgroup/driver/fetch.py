"""Get a bundle's bytes: from a presigned address or a path of this machine. A store that is away is waited for."""

import time
from pathlib import Path

import httpx

from flowgroup.driver.trust import verifying
from flowgroup.errors import Refused
from flowgroup.model.causes import said
from flowgroup.retry import pause_s

_TIMEOUT_S = 300.0
_NEVER = {403: "may not be read with the address that the daemon signed", 404: "is not there (any more)"}


def fetch(address: str, *, limit_bytes: int, timeout_s: float = _TIMEOUT_S) -> bytes:
    """Raises Refused when it is missing, too large, or its store stays away for so long."""
    if not address.startswith(("http://", "https://")):
        return _read(Path(address), limit_bytes)
    deadline = time.monotonic() + timeout_s
    tries = 0
    while True:
        try:
            return _download(address, limit_bytes)
        except httpx.HTTPError as exc:
            tries += 1
            if time.monotonic() > deadline:
                raise Refused(said("storage-away", said=f"{_plain(address)}: {exc}")) from exc
            time.sleep(pause_s(tries, None, base_s=0.5))


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        if path.stat().st_size > limit_bytes:
            raise Refused(f"the bundle {path} has more than {limit_bytes} bytes")
        return path.read_bytes()
    except OSError as exc:
        raise Refused(f"the bundle {path} cannot be read: {exc.strerror}. Deploy the flow again.") from exc


def _download(address: str, limit_bytes: int) -> bytes:
    timeout = httpx.Timeout(60.0, connect=10.0)
    with httpx.stream("GET", address, timeout=timeout, verify=verifying(address)) as answer:
        if answer.status_code in _NEVER:
            raise Refused(f"the bundle {_plain(address)} {_NEVER[answer.status_code]}. Deploy the flow again.")
        answer.raise_for_status()
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > limit_bytes:
                raise Refused(f"the bundle {_plain(address)} has more than {limit_bytes} bytes")
        return bytes(body)


def _plain(address: str) -> str:
    """Without its query: the signature in it is a credential."""
    return address.split("?", 1)[0]
