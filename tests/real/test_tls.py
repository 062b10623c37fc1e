"""The whole over TLS on the loopback: daemon, relay and drivers as on several hosts."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from flowgroup.dev.minder import end_pool
from flowgroup.dev.patient import Patient
from tests.fakes.ca import FakeCA
from tests.real.stack import AS_ASKED, Stack, wait_for
from tests.servers import free_port

pytestmark = pytest.mark.real
_ROOT = Path(__file__).parents[2]


@dataclass
class Hosts:
    """A daemon and a relay that may be started again."""

    url: str
    home: Path
    ca: FakeCA
    pool: str = "tls"
    daemon_port: int = field(default_factory=free_port)
    relay_port: int = field(default_factory=free_port)

    def start_relay(self) -> "subprocess.Popen[bytes]":
        tls = {"CERT": str(self.ca.port().cert), "KEY": str(self.ca.port().key)}
        env = {f"FLOWGROUP_RELAY_TLS_{name}": path for name, path in tls.items()}
        return self._start("flowgroup", "relay", "--tcp", f"127.0.0.1:{self.relay_port}", env=env)

    def start_daemon(self) -> "subprocess.Popen[bytes]":
        (self.home / self.pool / "daemon.json").unlink(missing_ok=True)
        told = (self.pool, str(self.ca.folder), str(self.daemon_port), str(self.relay_port))
        started = self._start("tests.real.over_tls", *told, env=AS_ASKED)
        wait_for((self.home / self.pool / "daemon.json").exists, "the daemon is up", 60)
        return started

    def _start(self, *arguments: str, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
        key = self.home / "control.key"
        key.write_text("control-key-of-tests")
        own = {
            "PREFECT_API_URL": self.url,
            "FLOWGROUP_HOME": str(self.home),
            "FLOWGROUP_RELAY_CONTROL_KEY_FILE": str(key),
            "PYTHONPATH": f"{_ROOT}:{_ROOT / 'agent'}",
        }
        name = "relay.log" if "relay" in arguments else "daemon.log"
        with (self.home / name).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments], env={**clean, **own, **env}, stdout=out, stderr=out
            )


@dataclass
class Whole(Stack):
    hosts: Any = None
    relay: Any = None


@pytest.fixture(scope="module")
def over_tls(prefect_api: str) -> Iterator[Whole]:
    with TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        ca = FakeCA(home / "ca")
        ca.issue("localhost")
        hosts = Hosts(prefect_api, home, ca)
        api = stack.enter_context(httpx.Client(base_url=prefect_api, timeout=90, transport=Patient()))
        whole = Whole(prefect_api, api, home, hosts.pool, hosts.start_daemon(), hosts, hosts.start_relay())
        try:
            yield whole
        finally:
            for process in (whole.daemon, whole.relay):
                process.terminate()
                process.wait(30)
            end_pool(home / hosts.pool)


@pytest.fixture(scope="module")
def deployment(over_tls: Whole) -> str:
    return over_tls.deploy("lab.py:lab", "tls", "--workers", "1", "--worker-threads", "2")


def test_a_flow_with_tasks_on_dask_completes_and_its_logs_arrive(over_tls: Whole, deployment: str) -> None:
    run = over_tls.start(deployment, what="dask_itself")
    assert over_tls.wait(run)["state_name"] == "Completed"
    over_tls.wait_log(run, "found 42")
    tasks = over_tls.start(deployment, what="tasks_on_dask", with_={"salt": run})
    over_tls.wait(tasks, timeout_s=150)
    entry = over_tls.wait_log(tasks, "task 3 is in process")
    wait_for(lambda: entry["task_run_id"] in {task["id"] for task in over_tls.tasks(tasks)}, "its task is recorded")


def test_a_run_is_cancelled(over_tls: Whole, deployment: str) -> None:
    run = over_tls.start(deployment, what="sleeps", with_={"seconds": 60})
    over_tls.wait(run, "Running")
    over_tls.cancel(run)
    assert over_tls.wait(run, timeout_s=30)["state_name"] == "Cancelled"


def test_runs_survive_the_daemon_and_the_relay(over_tls: Whole, deployment: str) -> None:
    run = over_tls.start(deployment, what="prints_slowly", with_={"lines": 20, "pause_s": 0.3})
    over_tls.wait(run, "Running")
    for process in (over_tls.daemon, over_tls.relay):
        process.kill()
        process.wait()
    over_tls.relay = over_tls.hosts.start_relay()
    over_tls.daemon = over_tls.hosts.start_daemon()
    assert over_tls.wait(run)["state_name"] == "Completed"
    over_tls.wait_log(run, "line 19")
    assert over_tls.states(run).count("Running") == 1


def test_new_certificates_are_taken_by_all_without_a_restart(over_tls: Whole, deployment: str) -> None:
    successor = FakeCA(over_tls.home / "next")
    successor.issue("localhost")
    for name in ("tls.key", "tls.crt", "ca.crt"):
        (successor.folder / name).replace(over_tls.hosts.ca.folder / name)
    again = over_tls.start(deployment, what="prints", with_={"lines": 2})
    assert over_tls.wait(again)["state_name"] == "Completed"
    over_tls.wait_log(again, "line 1")
