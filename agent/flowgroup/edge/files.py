"""Small files of our own."""

import os
from pathlib import Path

from flowgroup.errors import Refused, Transient
from flowgroup.settings import RelaySettings

KEY_CHARS_MIN = 16


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Readers see the old text or the new one, never half of it. Raises Transient (a full disk…)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "w") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(text)
        draft.replace(path)
    except OSError as exc:
        raise Transient(f"cannot write {path}: {exc}") from exc


def read_text(path: Path) -> str | None:
    """The file's text; None if it is not there. Raises Refused when it cannot be read."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise Refused(f"cannot read {path}: {exc}") from exc


def needed_text(path: Path, named: str) -> str:
    """The file's text. Raises Refused, with the option or variable that names it, when there is none."""
    text = read_text(path)
    if not text:
        raise Refused(f"{path} ({named}) is {'empty' if text == '' else 'not there'}")
    return text


def control_key(settings: RelaySettings) -> str:
    """
    What the daemon shows to a relay that it did not start itself: the text of the file that the settings name.

    Raises Refused, naming the variable.
    """
    path = settings.control_key_file
    if path is None:
        raise Refused(
            f"FLOWGROUP_RELAY_CONTROL_KEY_FILE is not set: a file with {KEY_CHARS_MIN} or more secret characters, the "
            "same for the daemon and the relay"
        )
    key = needed_text(path, "FLOWGROUP_RELAY_CONTROL_KEY_FILE").strip()
    if len(key) < KEY_CHARS_MIN or not key.isascii() or not key.isprintable() or " " in key:
        raise Refused(
            f"{path} (FLOWGROUP_RELAY_CONTROL_KEY_FILE) wants {KEY_CHARS_MIN} or more letters, digits and signs of ASCII"
        )
    return key
