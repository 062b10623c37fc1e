"""A real Prefect server of our own: SQLite in its own folder, a free port, no word to anybody outside."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx

from flowgroup.edge.processes import Running, end_now, is_alive, python, spawn
from flowgroup.errors import Permanent
from flowgroup.settings import environment_for_user_code

_START_TIMEOUT_S = 180.0
_GRACE_S = 5.0


@contextmanager
def prefect_server(folder: Path, *, port: int = 0, cache: Path | None = None) -> Iterator[str]:
    """
    Run a Prefect server; gives the API's address (`http://127.0.0.1:<port>/api`). Prefect's UI is the same without `/api`.

    `cache` keeps an empty, migrated database per version, which saves seconds at the next start. Raises Permanent with the
    server's last lines when it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "prefect.db"
    empty = cache / f"empty-{version('prefect')}.db" if cache else None
    if empty and empty.exists() and not database.exists():
        shutil.copy(empty, database)
    fresh = not database.exists()
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}/api"
    arguments = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    running = spawn(
        python("prefect", *arguments),
        env=_environment(folder, database, url),
        cwd=folder,
        log=folder / "server.log",
    )
    try:
        _wait(url, running, folder / "server.log")
        if fresh and empty:
            _keep(database, empty)
        yield url
    finally:
        end_now([running], grace_s=_GRACE_S)


def _environment(folder: Path, database: Path, url: str) -> dict[str, str]:
    return {
        **environment_for_user_code(),
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }


def _wait(url: str, running: Running, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and is_alive(running):
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
    raise Permanent(f"the Prefect server did not start. Is flowgroup[server] installed? Its last lines:\n{last}")


def _keep(database: Path, empty: Path) -> None:
    """A copy of the new database through SQLite itself: the file alone lacks what is in the write-ahead log."""
    import sqlite3

    empty.parent.mkdir(parents=True, exist_ok=True)
    half = empty.with_suffix(".half")
    half.unlink(missing_ok=True)
    source, target = sqlite3.connect(database), sqlite3.connect(half)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
    half.replace(empty)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
