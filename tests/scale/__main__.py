"""`python -m tests.scale [--clusters N] [--groups N]`: on the cluster of $KUBECONFIG, which has to have kwok's nodes."""

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from flowgroup.dev.bench.sides import say
from flowgroup.dev.proc import usage
from flowgroup.edge.kubernetes.access import access
from tests.edge.kubernetes import real
from tests.edge.kubernetes.real import Kubectl
from tests.fakes.ca import FakeCA
from tests.fakes.prefect_api import FakePrefect
from tests.scale.page import Stage, page
from tests.scale.world import AT_ONCE, World, served
from tests.servers import free_port, running

_POOL, _PAGE = "pool", Path("docs/scale.md")
_WORKERS = 2
_IDLE_S = float(os.environ.get("FLOWGROUP_SCALE_IDLE_S", "60"))
_LATE_S = 900.0
_LOOK_S = 0.5
_SIZES = {
    "pretended": {
        "cpu": "10m",
        "memory": "16Mi",
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok", "operator": "Exists"}],
    }
}
_VARIABLES = {
    "workers": _WORKERS,
    "worker_size": "pretended",
    "scheduler_size": "pretended",
    "driver_size": "pretended",
    "idle_timeout_s": 7200,
}


@dataclass
class Measured:
    """The daemon, looked at every half second: `rss` are resident bytes."""

    pid: int
    rss: list[int] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def stage(self, name: str, runs: int = 0) -> AsyncIterator[Stage]:
        stage, before, began = Stage(name, runs), usage(self.pid), time.monotonic()
        self.rss = []
        looking = asyncio.create_task(self._look())
        try:
            yield stage
        finally:
            looking.cancel()
            after = usage(self.pid)
            stage.took_s = time.monotonic() - began
            stage.cores = (after.cpu_s - before.cpu_s) / stage.took_s
            stage.rss_bytes = max([after.rss_bytes, *self.rss])
            say(f"  {stage}")

    async def _look(self) -> None:
        while True:
            self.rss.append(usage(self.pid).rss_bytes)
            await asyncio.sleep(_LOOK_S)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale")
    parser.add_argument("--clusters", type=int, default=1000, help="and as many runs at once (%(default)s)")
    parser.add_argument("--groups", type=int, default=10_000, help="flows with a run tomorrow (%(default)s)")
    parser.add_argument("--keep", type=Path, help="a folder for the logs")
    args = parser.parse_args(argv)
    config = real.kubeconfig()
    os.environ["KUBECONFIG"] = config
    real.install_operators_types(Kubectl(config))
    with real.namespace(config) as kubectl, tempfile.TemporaryDirectory(prefix="flowgroup-scale-") as folder:
        kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce-")
        stages, troubles = asyncio.run(_measured(kubectl, args.keep or Path(folder), args.clusters, args.groups))
    _PAGE.write_text(page(stages, troubles, clusters=args.clusters, groups=args.groups, workers=_WORKERS))
    say("; ".join(troubles) or "nothing is missed")
    return int(bool(troubles))


async def _measured(kubectl: Kubectl, folder: Path, clusters: int, groups: int) -> tuple[list[Stage], list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    api = FakePrefect()
    deployments = [
        api.add_deployment(f"flow-{number}", job_variables=_VARIABLES) for number in range(max(groups, clusters))
    ]
    for deployment in deployments:
        api.add_run(deployment, in_s=86_400)
    api_port, daemon_port, relay_port = free_port(), free_port(), free_port()
    ca = FakeCA(folder / "ca")
    ca.issue()
    env = _environment(kubectl, folder, ca, api_port, daemon_port, relay_port)
    here = access()
    client = httpx.AsyncClient(
        base_url=here.url, verify=here.tls, timeout=None, limits=httpx.Limits(max_connections=AT_ONCE + 2)
    )
    if token := here.token():
        client.headers["Authorization"] = f"Bearer {token}"
    trusted = ssl.create_default_context(cafile=str(ca.file))
    world = World(api, client, kubectl.namespace, daemon_port, trusted)
    async with client, served(api, api_port), world.there():
        command = [sys.executable, "-m", "flowgroup"]
        ready = folder / "home" / _POOL / "daemon.json"
        with contextlib.ExitStack() as stack:
            for name, more, is_up in (
                ("relay", ["relay", "--tcp", f"127.0.0.1:{relay_port}"], lambda: _listens(relay_port)),
                ("daemon", ["start", "--pool", _POOL], ready.exists),
            ):
                log = folder / f"{name}.log"
                await asyncio.to_thread(stack.enter_context, running([*command, *more], env, log, is_up))
            daemon = Measured(json.loads(ready.read_text())["pid"])
            return await _stages(world, daemon, deployments[:clusters])


async def _stages(world: World, daemon: Measured, deployments: list[str]) -> tuple[list[Stage], list[str]]:
    count, stages = len(deployments), []
    async with daemon.stage("idle, no cluster") as stage:
        await asyncio.sleep(_IDLE_S)
    stages.append(stage)
    for name in ("burst, each run needs a new cluster", "burst, each cluster is there"):
        async with daemon.stage(name, count) as stage:
            before = len(world.submitted)
            for deployment in deployments:
                world.api.add_run(deployment)
            await _until(world, lambda: len(world.submitted) >= before + count)  # noqa: B023
        stages.append(stage)
        await _until(world, lambda: _ended(world) == len(world.submitted))
        async with daemon.stage(f"idle, {count} clusters") as stage:
            await asyncio.sleep(_IDLE_S)
        stages.append(stage)
    troubles = [f"{len(world.twice)} runs were given twice"] if world.twice else []
    if (missing := 2 * count - len(world.submitted)) > 0:
        troubles.append(f"{missing} runs were not submitted within {_LATE_S:.0f} s")
    if world.pods != count * (2 + _WORKERS):
        troubles.append(f"{world.pods} pods were made instead of {count * (2 + _WORKERS)}")
    troubles += [f"{stage.name}: {missed}" for stage in stages for missed in stage.missed()]
    return stages, troubles


async def _until(world: World, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LATE_S
    said = time.monotonic()
    while not is_so() and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        if time.monotonic() - said > 20:
            said = time.monotonic()
            say(f"    {len(world.submitted)} submitted, {len(world.drivers)} drivers, {world.pods} pods")


def _ended(world: World) -> int:
    return sum(world.api.runs[run]["state"]["type"] == "COMPLETED" for run in world.submitted)


def _environment(
    kubectl: Kubectl, folder: Path, ca: FakeCA, api_port: int, daemon_port: int, relay_port: int
) -> dict[str, str]:
    (folder / "home").mkdir(exist_ok=True)
    (folder / "control-key").write_text(uuid.uuid4().hex)
    (folder / "sizes.json").write_text(json.dumps(_SIZES))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
    own = {
        "PREFECT_API_URL": f"http://127.0.0.1:{api_port}/api",
        "FLOWGROUP_HOME": str(folder / "home"),
        "FLOWGROUP_BACKEND": "kubernetes",
        "FLOWGROUP_EVENTS": "false",  # the pretended API has no event stream: runs are found by polls
        "FLOWGROUP_SLOTS": "5000",
        "FLOWGROUP_CLUSTER_TIMEOUT_S": str(_LATE_S),
        "FLOWGROUP_RELAY_CONTROL_KEY_FILE": str(folder / "control-key"),
        "FLOWGROUP_KUBERNETES_SIZES": str(folder / "sizes.json"),
        "FLOWGROUP_KUBERNETES_CA_FILE": str(ca.file),
        "FLOWGROUP_KUBERNETES_NAMESPACE": kubectl.namespace,
        "FLOWGROUP_KUBERNETES_IMAGE": f"pretended:1@sha256:{'0' * 64}",
        "FLOWGROUP_KUBERNETES_DAEMON_ADDRESS": f"tls://127.0.0.1:{daemon_port}",
        "FLOWGROUP_KUBERNETES_RELAY_ADDRESS": f"https://127.0.0.1:{relay_port}",
        "FLOWGROUP_KUBERNETES_LISTEN_PORT": str(daemon_port),
        "FLOWGROUP_KUBERNETES_OPERATOR_TIMEOUT_S": str(_LATE_S),
    }
    for what, name in (("CERT", "tls.crt"), ("KEY", "tls.key")):
        own |= {f"FLOWGROUP_{room}_TLS_{what}": str(ca.folder / name) for room in ("KUBERNETES", "RELAY")}
    return clean | own


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.exit(main())
