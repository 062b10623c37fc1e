"""The whole of flowgroup on real parts: a Prefect server, the daemon, its relay, clusters; watched from outside."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.dev import service
from flowgroup.dev.patient import Patient

FLOWS = Path(__file__).with_name("flows")
# `make test-stock` runs tests with Prefect's engine as it is.
AS_ASKED = {name: value for name, value in os.environ.items() if name == "FLOWGROUP_DRIVER_LEAN"}
_LOGS_AT_ONCE = 200
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Stack:
    """`api` speaks to the Prefect server itself; `home` is FLOWGROUP_HOME; `pool` the pool that the daemon serves."""

    url: str
    api: httpx.Client
    home: Path
    pool: str
    daemon: "subprocess.Popen[bytes]"

    def shell(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """`flowgroup …` as an author would call it."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
        clean |= {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home / "author"), **(env or {})}
        return subprocess.run(
            [sys.executable, "-m", "flowgroup", *arguments],
            env=clean,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def another_daemon(
        self, *flags: str, module: Sequence[str] = ("flowgroup",), apart: bool = False
    ) -> "subprocess.Popen[bytes]":
        """A daemon with the same home and pool. `apart`: in a session of its own."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
        with (self.home / "daemon.log").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", *module, "start", "--pool", self.pool, *flags],
                env={**clean, "PREFECT_API_URL": self.url, "FLOWGROUP_HOME": str(self.home)},
                stdout=out,
                stderr=out,
                start_new_session=apart,
            )

    def deploy(
        self, flow: str, name: str, *more: str, store: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Deploy `<file in flows>:<flow>` as a bundle; the deployment's id."""
        where = ("--pool", self.pool, "--store", store or f"file://{self.home}/store", "--json")
        done = self.shell("deploy", f"{FLOWS / flow}", "--name", name, *where, *more, env=env)
        assert done.returncode == 0, done.stderr
        deployed: str = json.loads(done.stdout)["deployment_id"]
        return deployed

    def start(self, deployment: str, **parameters: Any) -> str:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self._json("POST", f"/deployments/{deployment}/create_flow_run", json=body)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._json("GET", f"/flow_runs/{run_id}")
        return found

    def wait(self, run_id: str, *names: str, timeout_s: float = 90.0) -> dict[str, Any]:
        """The run, once its state has one of these names or types (default: any final type)."""
        wanted = set(names) or FINAL
        deadline = time.monotonic() + timeout_s
        while True:
            run = self.run(run_id)
            if {run["state_name"], run["state_type"]} & wanted:
                return run
            if time.monotonic() > deadline or (run["state_type"] in FINAL and not names):
                pytest.fail(
                    f"{run['name']} is {run['state_name']} after {timeout_s} s: {run['state']}\n{self.trouble()}"
                )
            time.sleep(0.1)

    def message(self, run_id: str) -> str:
        return str(self.run(run_id)["state"]["message"] or "")

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """The run's states, oldest first."""
        found = self._json("GET", "/flow_run_states/", params={"flow_run_id": run_id})
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def states(self, run_id: str) -> list[str]:
        return [state["name"] for state in self.history(run_id)]

    def cancel(self, run_id: str) -> None:
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        assert self._json("POST", f"/flow_runs/{run_id}/set_state", json=body)["status"] == "ACCEPT"

    def logs(self, run_id: str) -> list[dict[str, Any]]:
        """All of them, oldest first; the API gives 200 at a time."""
        found: list[dict[str, Any]] = []
        while len(found) % _LOGS_AT_ONCE == 0:
            body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": _LOGS_AT_ONCE}
            page: list[dict[str, Any]] = self._json("POST", "/logs/filter", json={**body, "offset": len(found)})
            if not page:
                break
            found += page
        return found

    def wait_log(self, run_id: str, text: str, timeout_s: float = 20.0, *, begins: bool = False) -> dict[str, Any]:
        """The first line that has the text in it; `begins`: that begins with it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for entry in self.logs(run_id):
                if entry["message"].startswith(text) if begins else text in entry["message"]:
                    return entry
            time.sleep(0.1)
        pytest.fail(
            f"{text!r} is not in the logs of {run_id}: {[entry['message'][:80] for entry in self.logs(run_id)]}"
        )

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json(
            "POST", "/task_runs/filter", json={"flow_runs": {"id": {"any_": [run_id]}}}
        )
        return found

    def sub_flows(self, run_id: str) -> list[dict[str, Any]]:
        body = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}}
        found: list[dict[str, Any]] = self._json("POST", "/flow_runs/filter", json=body)
        return found

    def clusters(self) -> list[str]:
        """Names of the clusters that exist now."""
        return sorted(path.parent.name for path in (self.home / self.pool / "clusters").glob("*/cluster.json"))

    def processes(self, cluster: str) -> dict[str, int]:
        """The pids of a cluster's processes, by role."""
        told = json.loads((self.home / self.pool / "clusters" / cluster / "cluster.json").read_text())
        return {role: process["pid"] for role, process in told["processes"].items()}

    def cluster_of(self, run_id: str) -> str:
        """The cluster that has, or had, the run's child."""
        for event in self.events("run_sent"):
            if event["run"] == run_id:
                return str(event["cluster"])
        pytest.fail(f"run {run_id} was not sent\n{self.trouble()}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The daemon's own log lines of one kind."""
        lines = (self.home / "daemon.log").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def trouble(self) -> str:
        return "\n".join((self.home / "daemon.log").read_text().splitlines()[-30:])

    def _json(self, method: str, path: str, **call: Any) -> Any:
        answer = self.api.request(method, path, **call)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()


@contextlib.contextmanager
def stack(
    url: str,
    home: Path,
    pool: str,
    *,
    keys: Path | None = None,
    env: Mapping[str, str] | None = None,
    auth: str | None = None,
    seen_at: str | None = None,
) -> Iterator[Stack]:
    """
    The daemon against the Prefect server at `url`; everything that it made is gone at the end. `env` is the daemon's,
    `auth` what the test itself shows to the server, and `seen_at` where it finds it, if not at `url`.
    """
    home.mkdir(parents=True, exist_ok=True)
    env = {**AS_ASKED, **(env or {})}
    with (
        service.daemon(url, pool=pool, home=home, keys=keys, log=home / "daemon.log", env=env) as daemon,
        httpx.Client(base_url=seen_at or url, timeout=90, transport=Patient(), headers=_shown(auth)) as api,
    ):
        yield Stack(url, api, home, pool, daemon)


def _shown(auth: str | None) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}


def wait_for(is_so: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """What `is_so` gives, once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := is_so()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)
    return found
