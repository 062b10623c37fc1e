"""Who is measured: our daemon, and Prefect's process worker with its defaults and with a poll of 1 s."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from flowgroup.dev import service
from flowgroup.dev.bench import runs
from flowgroup.dev.minder import Minded, uninterrupted
from flowgroup.edge.processes import end_now, python, spawn
from flowgroup.errors import Permanent
from flowgroup.settings import environment_for_user_code

FLOWS = Path(__file__).with_name("flows") / "flows.py"
_FLOW_NAMES = ("empty", "speaks")
_GRACE_S = 10.0
_DEPLOY = """
import sys
from prefect import flow
folder, pool, *names = sys.argv[1:]
for name in names:
    made = flow.from_source(source=folder, entrypoint=f"flows.py:{name}")
    made.deploy(name="bench-" + pool, work_pool_name=pool, build=False, push=False, print_next_steps=False)
"""


@dataclass(frozen=True)
class Bench:
    """What all sides share: the server at `url`, asked through `api`; its log; the folder that is gone afterwards."""

    mind: Minded
    url: str
    api: httpx.Client

    @property
    def server_log(self) -> Path:
        return self.mind.folder / "prefect" / "server.log"

    @property
    def env(self) -> dict[str, str]:
        """Of whoever deploys and works here: nobody's own Prefect profile."""
        home = {"PREFECT_HOME": str(self.mind.folder / "author"), "PREFECT_API_URL": self.url}
        return {**environment_for_user_code(), **home, "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Side:
    """
    `deployments` gives the id of each flow's deployment, `up` is the block in which the side takes runs, `singles` says
    how many runs to make one by one.
    """

    name: str
    singles: int
    deployments: Mapping[str, str]
    up: AbstractContextManager[object]


def ours(bench: Bench, *, singles: int) -> Side:
    """The daemon as `flowgroup start` has it, flows deployed as bundles without Dask."""

    @contextmanager
    def up() -> Iterator[None]:
        yield  # it is up already: deploying needs its pool

    service.start_daemon(bench.mind, bench.url, pool="flowgroup", log=bench.mind.folder / "daemon.log")
    found = {}
    for name in _FLOW_NAMES:
        place = ("--name", "bench", "--pool", "flowgroup", "--store", f"file://{bench.mind.folder}/store", "--json")
        told = _told(python("flowgroup", "deploy", f"{FLOWS}:{name}", *place), bench.env)
        found[name] = str(json.loads(told)["deployment_id"])
    return Side("flowgroup", singles, found, up())


def process_worker(bench: Bench, name: str, *, singles: int, env: Mapping[str, str]) -> Side:
    """`prefect worker start --type process`, flows deployed from their folder. `env` is added to the worker's."""
    pool = name.replace(",", "").replace(" ", "-")
    runs.post(bench.api, "/work_pools/", {"name": pool, "type": "process"})
    _told([sys.executable, "-c", _DEPLOY, str(FLOWS.parent), pool, *_FLOW_NAMES], bench.env)
    address = "/deployments/name/{}/bench-" + pool
    found = {flow: str(runs.get(bench.api, address.format(flow))["id"]) for flow in _FLOW_NAMES}
    return Side(name, singles, found, _worker(bench, pool, env))


@contextmanager
def _worker(bench: Bench, pool: str, env: Mapping[str, str]) -> Iterator[None]:
    folder = bench.mind.folder
    command = python("prefect", "worker", "start", "--type", "process", "--pool", pool)
    with uninterrupted():
        process = spawn(command, env={**bench.env, **env}, cwd=folder, log=folder / "worker.log")
        bench.mind.process(process)
    try:
        yield
    finally:
        end_now([process], grace_s=_GRACE_S)


def _told(command: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Permanent(f"{' '.join(command[1:4])} failed: {done.stderr.strip()[-1500:]}")
    return done.stdout
