"""One daemon per pool and home, and the mark by which it knows its own runs again."""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgroup.edge.files import read_text, write_atomically
from flowgroup.errors import Refused


def folder_of(home: Path, pool: str) -> Path:
    """`<home>/<pool>`, made for us alone. Raises Refused."""
    folder = home.expanduser().absolute() / pool
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as exc:
        raise Refused(f"cannot use {folder} (--home, FLOWGROUP_HOME): {exc}") from exc
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock during the block. Raises Refused when another daemon has it; it goes with its process."""
    path = folder / "daemon.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Refused(
                f"another daemon serves the pool {folder.name!r} from {folder.parent}: stop it, or give --home another folder"
            ) from exc
        yield


def mark_of(folder: Path, name: str) -> str:
    """
    What marks our attempts: the pool and the worker's name if it was given, else a word of this home's own.

    Not the pool alone: two daemons on two machines may serve one pool, and each would end the other's runs as lost.
    """
    if name:
        return f"{folder.name}/{name}"
    file = folder / "owner"
    word = (read_text(file) or "").strip()
    if not word:
        word = uuid.uuid4().hex
        write_atomically(file, word)
    return f"{folder.name}/{word}"
