"""Who is measured: our daemon, and Prefect's process worker with its defaults and with a poll of 1 s."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

from flowgroup.dev import service
from flowgroup.dev.bench import runs
from flowgroup.dev.bench.figures import OURS
from flowgroup.dev.minder import Minded, end_pool, minded, uninterrupted
from flowgroup.dev.patient import api_at
from flowgroup.dev.server import start_prefect_server
from flowgroup.edge.processes import Running, end_now, python, running, spawn
from flowgroup.errors import Permanent
from flowgroup.settings import environment_for_user_code

if TYPE_CHECKING:
    from flowgroup.dev.bench.installed import Installed

FLOWS = Path(__file__).with_name("flows")
_SHARED_FLOWS = {"empty": "empty.py:empty", "speaks": "flows.py:speaks", "sleeps": "flows.py:sleeps"}
_COLD = 4
_GRACE_S = 10.0
_DEPLOY_OURS = """
import json, sys
from flowgroup import Cluster, deploy
from flowgroup.client.load import load_flow
folder, pool, store, asked = sys.argv[1:]
found = {}
for name, entrypoint, cluster, start_script in json.loads(asked):
    flow = load_flow(f"{folder}/{entrypoint}")
    cluster = Cluster(**cluster) if cluster else None
    done = deploy(flow, name=name, pool=pool, store=store, cluster=cluster, start_script=start_script)
    found[name] = str(done.deployment_id)
print(json.dumps(found))
"""
_DEPLOY = """
import sys
from prefect import flow
folder, pool, *names = sys.argv[1:]
for entrypoint in names:
    made = flow.from_source(source=folder, entrypoint=entrypoint)
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

    def logged(self, since: int = 0) -> str:
        """What the server has logged since its log had this size in bytes."""
        with self.server_log.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace")

    def log_size(self) -> int:
        return self.server_log.stat().st_size


@contextmanager
def measuring(prefix: str, host: str = "127.0.0.1") -> Iterator[Bench]:
    """A Prefect server of its own, for measuring, in a folder whose name begins with `prefix` and that is gone afterwards."""
    with minded(Path(tempfile.mkdtemp(prefix=prefix)), remove=True) as mind:
        say("starting a Prefect server")
        cache = Path.home() / ".cache" / "flowgroup"
        url = start_prefect_server(mind, host=host, cache=cache, for_measuring=True)
        with api_at(url) as api:
            yield Bench(mind, url, api)


def say(text: str) -> None:
    """A line for who waits, with the time."""
    print(f"\N{BULLET} {datetime.now(UTC):%H:%M:%S} {text}", flush=True)


@dataclass(frozen=True)
class Size:
    """How much of everything. `held` runs are under way before `more` are added, for their memory."""

    singles: int
    burst: int
    scheduled: int
    held: int = 1
    more: int = 2
    tasks: int = 1000
    stock_tasks: int = 200
    storm: int = 10_000
    spoken_s: float = 20.0


@dataclass(frozen=True)
class Side:
    """
    `deployments` gives the id of each flow's deployment on the work pool `pool`, `up` is the block in which the side takes
    runs. `folder` is where our daemon keeps its state, `worker` the noted process of the other side.
    """

    name: str
    size: Size
    pool: str
    deployments: Mapping[str, str]
    up: AbstractContextManager[object]
    folder: Path | None = None
    worker: list[Running] | None = None
    there: "Installed | None" = None
    """What is installed on Kubernetes, where that is measured."""

    @property
    def is_ours(self) -> bool:
        return self.name == OURS


def ours(bench: Bench, size: Size) -> Side:
    """The daemon as `flowgroup start` has it; flows deployed as bundles, without Dask but for `maps`."""
    daemon = service.start_daemon(bench.mind, bench.url, pool=OURS, log=bench.mind.folder / "daemon.log")
    shared = [Asked(name, entrypoint) for name, entrypoint in _SHARED_FLOWS.items()]
    own = [
        Asked("chatty", "flows.py:chatty"),
        Asked("maps", "flows.py:maps", {"workers": 2}),
        Asked("frames", "frames.py:frames"),
        Asked("asks", "relayed.py:asks"),
        Asked("floods", "relayed.py:floods"),
    ]
    cold = [Asked(f"cold-{number}", "empty.py:empty", None, f"true {number}") for number in range(_COLD)]
    found = deployed(bench, OURS, [*shared, *own, *cold])
    folder = bench.mind.folder / OURS
    return Side(OURS, size, OURS, found, _ended(running(daemon.pid), folder), folder=folder)


@contextmanager
def _ended(daemon: Running, folder: Path) -> Iterator[None]:
    """The daemon is up already, for deploying needs its pool; after the block it and its clusters are in nobody's way."""
    try:
        yield
    finally:
        end_now([daemon], grace_s=_GRACE_S)
        end_pool(folder)


class Asked(NamedTuple):
    """A deployment to make: `cluster` are the words of `flowgroup.Cluster`."""

    name: str
    entrypoint: str
    cluster: Mapping[str, Any] | None = None
    start_script: str | None = None


def deployed(
    bench: Bench, pool: str, asked: list[Asked], *, store: str | None = None, keys: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Deploy on a pool of ours, by default with a store in our folder; the ids by name. `keys` are the store's."""
    where = store or f"file://{bench.mind.folder}/store"
    command = [sys.executable, "-c", _DEPLOY_OURS, str(FLOWS), pool, where, json.dumps(asked)]
    found: dict[str, str] = json.loads(told(command, {**bench.env, **(keys or {})}))
    return found


@contextmanager
def other_daemon(bench: Bench, pool: str, env: Mapping[str, str]) -> Iterator[None]:
    """Another daemon on a pool of its own, with this added to its environment."""
    log = bench.mind.folder / f"daemon-{pool}.log"
    process = service.start_daemon(bench.mind, bench.url, pool=pool, log=log, env=env)
    with _ended(running(process.pid), bench.mind.folder / pool):
        yield


def process_worker(bench: Bench, name: str, size: Size, env: Mapping[str, str]) -> Side:
    """`prefect worker start --type process`, flows deployed from their folder. `env` is added to the worker's."""
    pool = name.replace(",", "").replace(" ", "-")
    runs.post(bench.api, "/work_pools/", {"name": pool, "type": "process"})
    told([sys.executable, "-c", _DEPLOY, str(FLOWS), pool, *_SHARED_FLOWS.values()], bench.env)
    address = "/deployments/name/{}/bench-" + pool
    found = {flow: str(runs.get(bench.api, address.format(flow))["id"]) for flow in _SHARED_FLOWS}
    worker: list[Running] = []
    return Side(name, size, pool, found, _worker(bench, pool, env, worker), worker=worker)


@contextmanager
def _worker(bench: Bench, pool: str, env: Mapping[str, str], noted: list[Running]) -> Iterator[None]:
    command = python("prefect", "worker", "start", "--type", "process", "--pool", pool)
    with worker_up(bench, command, env, noted):
        yield


@contextmanager
def worker_up(bench: Bench, command: list[str], env: Mapping[str, str], noted: list[Running]) -> Iterator[None]:
    """A worker of Prefect's, noted once it is started."""
    folder = bench.mind.folder
    with uninterrupted():
        process = spawn(command, env={**bench.env, **env}, cwd=folder, log=folder / "worker.log")
        bench.mind.process(process)
    noted.append(process)
    try:
        yield
    finally:
        end_now([process], grace_s=_GRACE_S)


def told(command: list[str], env: Mapping[str, str]) -> str:
    """What a command prints. Raises Permanent with its last words when it fails."""
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Permanent(f"{' '.join(command[1:4])[:80]} failed: {done.stderr.strip()[-1500:]}")
    return done.stdout
