"""A real Prefect server of our own: SQLite in its own folder, a free port, no word to anybody outside."""

import os
import shutil
import socket
import sqlite3
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import httpx

from flowgroup.dev.minder import Minded, uninterrupted
from flowgroup.edge.processes import Running, is_alive, python, spawn
from flowgroup.errors import Permanent, Refused
from flowgroup.settings import environment_for_user_code

_START_TIMEOUT_S = 180.0
_LOOK_S = 0.05
_LOOPBACK = "127.0.0.1"
LOCK_FIRST = "--lock-first"
"""What `flowgroup.dev.steady` is told for measurements."""


def start_prefect_server(
    mind: Minded, *, host: str = _LOOPBACK, port: int = 0, cache: Path | None = None, for_measuring: bool = False
) -> str:
    """
    Start a Prefect server in `<folder>/prefect`; gives the API's address (`http://<host>:<port>/api`). Prefect's UI is
    the same without `/api`. Another host than 127.0.0.1 is the name by which others reach this machine: the server then
    listens on all its addresses.

    `cache` keeps an empty, migrated database per version, which saves seconds at the next start. With `for_measuring` the
    server logs a line per call, and is `flowgroup.dev.steady`. Raises Refused when the port is taken, and Permanent with
    the server's last lines when it does not start.
    """
    folder = mind.folder / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    database, log = folder / "prefect.db", folder / "server.log"
    if cache:
        take_empty(cache, database)
    is_fresh = not database.exists()
    url = f"http://{host}:{free_port(port)}/api"
    listens = host if host == _LOOPBACK else "0.0.0.0"  # noqa: S104
    arguments = ("--host", listens, "--port", url.removesuffix("/api").rsplit(":", 1)[1])
    command = python("flowgroup.dev.steady", LOCK_FIRST) if for_measuring else python("prefect", "server", "start")
    with uninterrupted():
        env = _environment(folder, database, url, for_measuring)
        running = spawn([*command, *arguments], env=env, cwd=folder, log=log)
        mind.server(running)
    _wait(url, running, log)
    if is_fresh and cache:
        keep_empty(cache, database)
    return url


def take_empty(cache: Path, database: Path) -> None:
    """Where there is no database yet, a copy of the empty one, if the cache has one for this version of Prefect."""
    if _empty(cache).exists() and not database.exists():
        shutil.copy(_empty(cache), database)


def keep_empty(cache: Path, database: Path) -> None:
    """A copy of a new database for the next one, through SQLite itself: the file lacks what is in the write-ahead log."""
    empty = _empty(cache)
    empty.parent.mkdir(parents=True, exist_ok=True)
    half = empty.with_suffix(f".{os.getpid()}.half")
    half.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(half)) as target:
        source.backup(target)
    half.replace(empty)


def _empty(cache: Path) -> Path:
    return cache / f"empty-{version('prefect')}.db"


def _environment(folder: Path, database: Path, url: str, access_log: bool) -> dict[str, str]:
    return {
        **environment_for_user_code(),
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO" if access_log else "WARNING",
        "DO_NOT_TRACK": "1",
    }


def _wait(url: str, running: Running, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    with httpx.Client(timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline and is_alive(running):
            try:
                if client.get(f"{url}/health").status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass  # not yet
            time.sleep(_LOOK_S)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
    raise Permanent(f"the Prefect server did not start. Is flowgroup[server] installed? Its last lines:\n{last}")


def free_port(wanted: int = 0) -> int:
    """The wanted port, or any for 0. Raises Refused when somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: a port that was just left is free
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as exc:
            raise Refused(
                f"port {wanted} of this machine is taken ({exc.strerror}): is another Prefect server running? "
                "Stop it, or choose another with --port"
            ) from exc
        port: int = probe.getsockname()[1]
        return port
