"""The control key of a release: what the daemon shows to relays, and what drivers' secrets are made from."""

from pathlib import Path

from flowgroup.errors import Refused


def key_in(file: Path) -> str:
    """Raises Refused."""
    try:
        key = file.read_text().strip()
    except OSError as exc:
        raise Refused(f"cannot read {file} (FLOWGROUP_RELAY_CONTROL_KEY_FILE): {exc}") from exc
    if not key:
        raise Refused(f"{file} (FLOWGROUP_RELAY_CONTROL_KEY_FILE) is empty")
    return key
