"""The API's token is where the daemon and the relay are, and nowhere else."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.real.stack import Stack, stack
from tests.servers import prefect_server

pytestmark = pytest.mark.real
TOKEN = "admin:flowgroup-test-token-5d1c"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack on a Prefect server that demands a token."""
    server = prefect_server(tmp_path_factory.mktemp("guarded"), env={"PREFECT_SERVER_API_AUTH_STRING": TOKEN})
    with server as url, TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder:
        env = {"PREFECT_API_AUTH_STRING": TOKEN}
        with stack(url, Path(folder), "guarded", env=env, auth=TOKEN) as made:
            yield made


def test_the_token_is_in_no_process_file_or_memory_where_user_code_runs(guarded: Stack) -> None:
    deployment = guarded.deploy("lab.py:lab", "d", "--workers", "1", env={"PREFECT_API_AUTH_STRING": TOKEN})
    run = guarded.start(deployment, what="sleeps_on_dask", with_={"seconds": 25})
    guarded.wait(run, "Running")
    cluster = guarded.cluster_of(run)
    pids = _family(list(guarded.processes(cluster).values()))
    assert len(pids) >= 6  # driver, zygote, child, scheduler, nanny, worker
    for pid in pids:
        assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes(), f"environment of {_name(pid)}"
        assert not _in_memory(pid, TOKEN.encode()), f"memory of {_name(pid)}"
        assert not _in_memory(pid, _basic(TOKEN)), f"memory of {_name(pid)}"
    with_it = [path for path in guarded.home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert [path for path in with_it if "author" not in path.parts] == []
    guarded.cancel(run)
    assert guarded.wait(run)["state_name"] == "Cancelled"


def test_the_relay_holds_the_token_and_other_processes_of_the_user_cannot_read_it(guarded: Stack) -> None:
    import json

    relay = int(json.loads((guarded.home / guarded.pool / "relay.json").read_text())["pid"])
    assert TOKEN.encode() not in Path(f"/proc/{relay}/environ").read_bytes()  # we are root here, or it is not readable
    assert _in_memory(relay, TOKEN.encode()) or os.geteuid() != 0  # so the search in memory does find what is there
    for pid in (relay, guarded.daemon.pid):
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0  # not dumpable: the kernel gives it to root alone


def _family(roots: list[int]) -> list[int]:
    from flowgroup.driver import oskit

    table = oskit.process_table()
    return sorted({pid for root in roots for pid in {root} | oskit.descendants(root, table)} & table.keys())


def _basic(token: str) -> bytes:
    import base64

    return base64.b64encode(token.encode())


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]


def _in_memory(pid: int, needle: bytes) -> bool:
    """Whether the bytes stand anywhere in a process's writable memory."""
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found and needle in _read(memory, int(found[1], 16), int(found[2], 16)):
                return True
    return False


def _read(memory: object, start: int, end: int) -> bytes:
    try:
        return os.pread(memory.fileno(), end - start, start)  # type: ignore[attr-defined]
    except OSError:
        return b""
