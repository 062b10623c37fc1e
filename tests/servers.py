"""Real servers for tests, each with its own folder and a free port, ended by their process id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from flowgroup.dev.server import keep_empty, take_empty

_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
}
_CACHE = Path(__file__).parents[1] / ".flowgroup" / "tests"
_TOOLS = "/var/lib/testcluster/bin"


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def prefect_server(folder: Path, *, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """A Prefect server over a SQLite file in `folder`; yields its API's address, which ends in /api."""
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "prefect.db"
    take_empty(_CACHE, database)
    is_fresh = not database.exists()
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own = {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_API_URL": url,
        "PREFECT_UI_API_URL": url,
        **_QUIET,
        **(env or {}),
    }
    where = ("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning")
    command = [sys.executable, "-m", "flowgroup.dev.steady", *where]
    with _process(command, {**clean, **own}, folder / "server.log", lambda: _answers(f"{url}/health")):
        if is_fresh:
            keep_empty(_CACHE, database)
        yield url


def give_empty(cache: Path) -> None:
    """The empty database that tests keep, where there is one, for a command that keeps one in this folder."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(_CACHE, cache, dirs_exist_ok=True)


@contextlib.contextmanager
def s3_server(folder: Path, *, bucket: str = "flowgroup", host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """
    An S3 server with one bucket below `folder`, at this address of the machine; yields the environment that object_store
    finds it by.

    The test is skipped where `versitygw` is not at hand.
    """
    program = shutil.which("versitygw", path=f"{os.environ.get('PATH', '')}:{_TOOLS}")
    if program is None:
        pytest.skip("versitygw is not on PATH")
    (folder / "buckets" / bucket).mkdir(parents=True)
    port = free_port()
    keys = {"ROOT_ACCESS_KEY": "access", "ROOT_SECRET_KEY": "secret-of-tests"}
    command = [program, "--port", f"{host}:{port}", "posix", str(folder / "buckets")]
    with _process(command, {**os.environ, **keys}, folder / "s3.log", lambda: _listens(port, host)):
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": keys["ROOT_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": keys["ROOT_SECRET_KEY"],
            "AWS_REGION": "us-east-1",
        }


def wait_until(is_so: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Look until it is so; fails the test after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(command: list[str], env: Mapping[str, str], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    """A process for the length of the block, once `is_up`; fails the test with what it said when it does not come up."""
    with _process(command, env, log, is_up):
        yield


@contextlib.contextmanager
def _process(
    command: list[str], env: Mapping[str, str], log: Path, is_up: Callable[[], bool], timeout_s: float = 180.0
) -> Iterator[None]:
    with log.open("ab") as out:
        child = subprocess.Popen(  # its own session, so that a Ctrl-C of the tests does not end it early
            command,
            env=dict(env),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + timeout_s
            while not is_up():
                if child.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-4000:]}")
                time.sleep(0.05)
            yield
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
