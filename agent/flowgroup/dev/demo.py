"""
`flowgroup demo`: everything once, from nothing, on real parts, in a folder of its own that is gone afterwards.

A Prefect server, a relay, the daemon; a flow deployed as a signed bundle into a file store; one run on demand, and one
that its schedule makes. Exit status 0 only if both completed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from flowgroup.dev import service
from flowgroup.dev.server import prefect_server
from flowgroup.dev.watch import Watch, timings
from flowgroup.edge.processes import python
from flowgroup.errors import Permanent
from flowgroup.settings import environment_for_user_code

_POOL = "demo"
_RUN_TIMEOUT_S = 180.0
_LOOK_S = 0.2
_COLUMNS = ("Pending", "Running", "Completed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flow", type=Path, default=None, metavar="FILE.py", help="a flow `hello` of your own")
    parser.add_argument("--keep-open", action="store_true", help="wait for Ctrl-C before cleaning up")


def run(args: argparse.Namespace) -> int:
    """Returns 0 only if the runs completed. Whatever happens, nothing is left running or on disk."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    flow = (args.flow or example()).resolve()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flowgroup-demo-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        _step("starting a Prefect server")
        with prefect_server(home / "prefect", cache=_cache()) as url:
            _step(f"Prefect's UI is at {url.removesuffix('/api')}")
            keys = home / "keys"
            _flowgroup("keys", "new", "--folder", str(keys), "--name", "demo")
            _step("starting the daemon and its relay")
            with service.daemon(url, pool=_POOL, home=home, keys=keys / "demo.pub", log=home / "daemon.log"):
                completed = _runs(url, flow, home)
                _step(f"Prefect's UI is at {url.removesuffix('/api')}; done in {time.monotonic() - began:.1f} s")
                if args.keep_open:
                    _step("Ctrl-C ends it")
                    signal.pause()
    return 0 if completed else 1


def _runs(url: str, flow: Path, home: Path) -> bool:
    with httpx.Client(base_url=url, timeout=30) as api:
        watch = Watch(api, _POOL)
        _step(f"deploying {flow.name}:hello as a signed bundle into {home}/store")
        deployed = _deploy(url, flow, home, "on-demand")
        _step("a run on demand: its cluster starts first")
        answer = api.post(
            f"/deployments/{deployed['deployment_id']}/create_flow_run", json={"state": {"type": "SCHEDULED"}}
        )
        on_demand: str = answer.raise_for_status().json()["id"]
        _until(watch, lambda: watch.ended(on_demand))
        _step("and on a schedule, every 5 seconds")
        scheduled = _deploy(url, flow, home, "scheduled", "--interval", "5")["deployment_id"]
        _until(watch, lambda: _ended_of(watch, scheduled) is not None)
        _deploy(url, flow, home, "scheduled", "--no-schedule")
        second = _ended_of(watch, scheduled)
        assert second is not None
        return _table(api, [watch.runs[on_demand], second])


def _ended_of(watch: Watch, deployment_id: str) -> dict[str, Any] | None:
    return next((r for r in watch.runs.values() if r["deployment_id"] == deployment_id and watch.ended(r["id"])), None)


def _until(watch: Watch, done: Any) -> None:
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise Permanent(f"the demo's run did not end within {_RUN_TIMEOUT_S:.0f} s")
        watch.look()
        time.sleep(_LOOK_S)
    time.sleep(2 * _LOOK_S)
    watch.look()  # its last lines


def _table(api: httpx.Client, runs: list[dict[str, Any]]) -> bool:
    print(f"\n  {'run':24} {'state':12}" + "".join(f"{'→ ' + name:>14}" for name in _COLUMNS))
    for run in runs:
        took = timings(api, run)
        cells = "".join(f"{took[name]:>12.2f} s" if name in took else f"{'-':>14}" for name in _COLUMNS)
        print(f"  {run['name']:24} {run['state_name']:12}{cells}")
    print("  (from the moment that the run was due; the first includes starting its cluster)\n")
    return all(run["state_type"] == "COMPLETED" for run in runs)


def _deploy(url: str, flow: Path, home: Path, name: str, *more: str) -> dict[str, Any]:
    where = (
        "--pool",
        _POOL,
        "--store",
        f"file://{home}/store",
        "--signing-key",
        str(home / "keys" / "demo.key"),
    )
    told = _flowgroup("deploy", f"{flow}:hello", "--name", name, "--workers", "1", *where, "--json", *more, url=url)
    deployed: dict[str, Any] = json.loads(told)
    return deployed


def _flowgroup(*arguments: str, url: str | None = None) -> str:
    env = {**environment_for_user_code(), **({"PREFECT_API_URL": url} if url else {})}
    done = subprocess.run(python("flowgroup", *arguments), env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Permanent(f"flowgroup {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def example() -> Path:
    """The flow that the demo deploys."""
    return Path(__file__).with_name("hello.py")


def _cache() -> Path:
    return Path.home() / ".cache" / "flowgroup"


def _step(text: str) -> None:
    print(f"\N{BULLET} {text}", flush=True, file=sys.stdout)
