"""
`flowgroup demo`: everything once, from nothing, on real parts, in a folder of its own that is gone afterwards.

A Prefect server, a relay, the daemon; a flow deployed as a signed bundle into a file store; one run on demand, and one
that its schedule makes. Exit status 0 only if both completed.
"""

import argparse
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flowgroup import signing
from flowgroup.dev.minder import Minded, minded, sweep, uninterrupted
from flowgroup.dev.patient import api_at
from flowgroup.dev.server import start_prefect_server
from flowgroup.dev.service import ends_like_ctrl_c, start_daemon
from flowgroup.dev.watch import Watch, timings
from flowgroup.edge.processes import python, running
from flowgroup.errors import Permanent
from flowgroup.settings import environment_for_user_code

_POOL = "demo"
_PREFIX = "flowgroup-demo-"
_RUN_TIMEOUT_S = 180.0
_LAST_LINES_TIMEOUT_S = 3.0
_LOOK_S = 0.2
_COLUMNS = ("Pending", "Running", "Completed")
_LAST_LINE = "Finished in state "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flow", type=Path, default=None, metavar="FILE.py", help="a flow `hello` of your own")
    parser.add_argument("--keep-open", action="store_true", help="wait for Ctrl-C before cleaning up")


def run(args: argparse.Namespace) -> int:
    """Returns 0 only if the runs completed. Whatever happens, nothing is left running or on disk."""
    ends_like_ctrl_c()
    sweep(_PREFIX)
    flow = (args.flow or example()).resolve()
    began = time.monotonic()
    with minded(Path(tempfile.mkdtemp(prefix=_PREFIX)), remove=True) as mind:
        _step("starting a Prefect server")
        url = start_prefect_server(mind, cache=_cache())
        _step(f"Prefect's UI is at {url.removesuffix('/api')}")
        _step("starting the daemon and its relay")
        pair = signing.new_pair(mind.folder / "keys", "demo")
        start_daemon(mind, url, pool=_POOL, keys=pair.public, log=mind.folder / "daemon.log")
        with api_at(url) as api:
            completed = _Demo(mind, url, api, flow, pair.private).run()
        _step(f"done in {time.monotonic() - began:.1f} s; Prefect's UI was at {url.removesuffix('/api')}")
        if args.keep_open:
            _step("everything stays up; Ctrl-C ends it")
            signal.pause()
    return 0 if completed else 1


@dataclass
class _Demo:
    mind: Minded
    url: str
    api: httpx.Client
    flow: Path
    key: Path

    def run(self) -> bool:
        watch = Watch(self.api, _POOL)
        _step(f"deploying {self.flow.name}:hello as a signed bundle into {self.mind.folder}/store")
        deployment = f"/deployments/{self._deploy()}"
        _step("a run on demand: its cluster starts first")
        order = {"state": {"type": "SCHEDULED"}}
        on_demand: str = self._post(f"{deployment}/create_flow_run", order).json()["id"]
        _wait(watch, "run on demand", lambda: watch.started(on_demand))
        self._post(f"{deployment}/resume_deployment")  # its first run is due some seconds from now
        _wait(watch, "run on demand", lambda: watch.ended(on_demand))
        _step("and on its schedule, every 5 seconds")
        _wait(watch, "scheduled run", lambda: _scheduled(watch) is not None)
        self._post(f"{deployment}/pause_deployment")
        scheduled = _scheduled(watch)
        assert scheduled is not None
        runs = [watch.runs[on_demand], scheduled]
        _look(watch, lambda: all(watch.has_said(run["id"], _LAST_LINE) for run in runs), _LAST_LINES_TIMEOUT_S)
        return _table(self.api, runs)

    def _deploy(self) -> str:
        """As its author would from a shell: with the schedule, which waits to be switched on."""
        place = (f"{self.flow}:hello", "--name", "demo", "--pool", _POOL, "--store", f"file://{self.mind.folder}/store")
        how = ("--workers", "1", "--interval", "5", "--paused", "--signing-key", str(self.key), "--json")
        env = {
            **environment_for_user_code(),
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.mind.folder / "author"),
        }
        command = python("flowgroup", "deploy", *place, *how)
        with uninterrupted():
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
            self.mind.process(running(process.pid))
        told, trouble = process.communicate()
        if process.returncode:
            raise Permanent(f"flowgroup deploy failed: {trouble.strip()}")
        deployment_id: str = json.loads(told)["deployment_id"]
        return deployment_id

    def _post(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        answer = self.api.post(path, json=body or {})
        if answer.is_error:
            raise Permanent(f"Prefect's API answers {answer.status_code} to {path}: {answer.text[:300]}")
        return answer


def _scheduled(watch: Watch) -> dict[str, Any] | None:
    """The first run that ended and that nobody asked for."""
    return next((run for run in watch.runs.values() if run["auto_scheduled"] and watch.ended(run["id"])), None)


def _wait(watch: Watch, what: str, done: Callable[[], bool]) -> None:
    if not _look(watch, done, _RUN_TIMEOUT_S):
        raise Permanent(f"the demo's {what} did not get on within {_RUN_TIMEOUT_S:.0f} s")


def _look(watch: Watch, done: Callable[[], bool], timeout_s: float) -> bool:
    """Show what happens until it is done; whether it is."""
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        watch.look()
        time.sleep(_LOOK_S)
    return done()


def _table(api: httpx.Client, runs: list[dict[str, Any]]) -> bool:
    print(f"\n  {'run':24} {'state':12}" + "".join(f"{'→ ' + name:>14}" for name in _COLUMNS))
    for run in runs:
        took = timings(api, run)
        cells = "".join(f"{took[name]:>12.2f} s" if name in took else f"{'-':>14}" for name in _COLUMNS)
        print(f"  {run['name']:24} {run['state_name']:12}{cells}")
    print("  (from the moment that the run was due; the first includes starting its cluster)\n")
    return all(run["state_type"] == "COMPLETED" for run in runs)


def example() -> Path:
    """The flow that the demo deploys. Its folder is no package, as an author's would be: the whole package would travel."""
    return Path(__file__).with_name("example") / "hello.py"


def _cache() -> Path:
    return Path.home() / ".cache" / "flowgroup"


def _step(text: str) -> None:
    print(f"\N{BULLET} {text}", flush=True)
