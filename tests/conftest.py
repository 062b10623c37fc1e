"""What every test may use. Servers are real and shared by the whole session."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.servers import prefect_server, s3_server

# looptime asks for the current loop before every test, also before those that have none: let it get none, instead of
# a new one that nobody closes.
asyncio.set_event_loop(None)

# Without it rich prints a traceback with all local variables: the whole daemon, for half a minute.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# What ignores a signal hands that on to what it starts: pytest-xdist's workers SIGINT, `nohup` SIGHUP. A test that presses
# Ctrl-C, or closes the terminal, would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# A run over its deployment's limit is looked at again after this time instead of 30 s.
_IMPATIENT = {"PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hypothesis takes the alarm of a test that hangs for a failure of its example, and goes on: such a process is ended."""
    for item in items:
        if item.get_closest_marker("hypothesis") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300, method="thread"))


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prefect server's API. Use names of your own: it is shared."""
    with prefect_server(tmp_path_factory.mktemp("prefect"), env=_IMPATIENT) as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a real S3 server with the bucket `flowgroup`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as env:
        yield env


@pytest.fixture
def store_folder(tmp_path: Path) -> str:
    """The address of an empty store on this machine."""
    return f"file://{tmp_path / 'store'}"
