"""Who is measured on Kubernetes: the installed chart, and Prefect's Kubernetes worker with its defaults."""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.figures import OURS, PODS
from flowgroup.dev.bench.installed import Installed
from flowgroup.dev.bench.sides import Asked, Bench, Side, Size, deployed, told, worker_up
from flowgroup.edge.processes import Running
from flowgroup.errors import Permanent, Refused

COLD, AHEAD = "cold-", "ahead-"
_POOL = "default"
_LINE_TIMEOUT_S, _LOOK_S = 15.0, 0.2
_ONE_WORKER = {"workers": 1}
_GOES_SOON = {"workers": 1, "idle_timeout_s": 5}
_EMPTY = "flowgroup.dev.bench.flows.empty.empty"
_ASKS = "flowgroup.dev.bench.flows.kube_cluster.asks_its_own"
_MAKES_CLUSTERS = "makes-clusters"
_OF_THE_OPERATOR = (
    "daskclusters.kubernetes.dask.org,daskworkergroups.kubernetes.dask.org,daskautoscalers.kubernetes.dask.org"
)


def ours_in_pods(bench: Bench, there: Installed, size: Size, *, cold: int, ahead: int) -> Side:
    """Bundles in the object store. Each of the `cold` and `ahead` deployments has a cluster of its own, which goes at once."""
    own = [Asked("empty", "empty.py:empty"), Asked("asks", "dask_first.py:asks", _ONE_WORKER)]
    own += [Asked(f"{COLD}{n}", "dask_first.py:asks", _GOES_SOON, f"true cold {n}") for n in range(cold)]
    own += [
        Asked(f"{AHEAD}{n}", "empty.py:empty", {**_GOES_SOON, "workers": 0}, f"true ahead {n}") for n in range(ahead)
    ]
    found = deployed(bench, _POOL, own, store="s3://flowgroup", keys=there.store)
    return Side(OURS, size, _POOL, found, _nothing_to_start(), there=there)


@contextmanager
def _nothing_to_start() -> Iterator[None]:
    yield


def kubernetes_worker(bench: Bench, there: Installed, size: Size, python: Path, *, cold: int) -> Side:
    """
    `prefect worker start --type kubernetes` on this machine; `python` has prefect-kubernetes. The flows are in images, so
    that nothing is pulled, and the images are on the node. The `cold` deployments are of a flow that makes a KubeCluster.
    """
    if not python.exists():
        raise Refused(f"{python} is not there: make bench-kubernetes makes it, with prefect-kubernetes in it")
    pool = f"pods-{uuid.uuid4().hex[:6]}"
    there.kubectl("create", "namespace", there.peer)
    _who_makes_clusters(there)
    runs.post(bench.api, "/work_pools/", {"name": pool, "type": "kubernetes"})
    found = {"empty": _deployment(bench, there, pool, _EMPTY, {"image": there.image("runtime")})}
    image = there.image("peer")
    wishes = {"IMAGE": image, "NAMESPACE": there.peer, "COUNT__START": "1"}
    env = {f"DASK_KUBERNETES__{name}": value for name, value in wishes.items()}
    asked = {"image": image, "env": env, "service_account_name": _MAKES_CLUSTERS}
    asks = _deployment(bench, there, pool, _ASKS, asked)
    found |= {f"{COLD}{n}": asks for n in range(cold)}
    return Side(PODS, size, pool, found, _worker(bench, there, pool, python))


def _who_makes_clusters(there: Installed) -> None:
    """The service account that dask-kubernetes' documentation asks for, in that namespace alone."""
    to = ["-n", there.peer, "create"]
    there.kubectl(*to, "serviceaccount", _MAKES_CLUSTERS)
    what = f"--resource={_OF_THE_OPERATOR},pods,pods/log,pods/portforward,services"
    there.kubectl(*to, "role", _MAKES_CLUSTERS, "--verb=*", what)
    who = f"--serviceaccount={there.peer}:{_MAKES_CLUSTERS}"
    there.kubectl(*to, "rolebinding", _MAKES_CLUSTERS, f"--role={_MAKES_CLUSTERS}", who)


def _deployment(bench: Bench, there: Installed, pool: str, entrypoint: str, asked: Mapping[str, Any]) -> str:
    name = entrypoint.rpartition(".")[2]
    flow = runs.post(bench.api, "/flows/", {"name": name})["id"]
    variables = {"image_pull_policy": "IfNotPresent", "namespace": there.peer, "finished_job_ttl": 30, **asked}
    body = {"name": pool, "flow_id": flow, "work_pool_name": pool, "entrypoint": entrypoint, "job_variables": variables}
    return str(runs.post(bench.api, "/deployments/", body)["id"])


@contextmanager
def _worker(bench: Bench, there: Installed, pool: str, python: Path) -> Iterator[None]:
    command = [str(python.absolute()), "-m", "prefect", "worker", "start", "--type", "kubernetes", "--pool", pool]
    noted: list[Running] = []
    try:
        with worker_up(bench, command, {"KUBECONFIG": there.env["KUBECONFIG"]}, noted):
            yield
    finally:
        told(["kubectl", "delete", "namespace", there.peer, "--wait=true"], there.env)


def first_line(bench: Bench, run: str, begins: str) -> str:
    """The rest of a run's first line that begins so. Raises Permanent when there is none within some seconds of its end."""
    deadline = time.monotonic() + _LINE_TIMEOUT_S
    while time.monotonic() < deadline:
        for entry in runs.lines(bench.api, [run]):
            if str(entry["message"]).startswith(begins):
                return str(entry["message"]).removeprefix(begins)
        time.sleep(_LOOK_S)
    raise Permanent(f"run {run} did not say {begins!r} within {_LINE_TIMEOUT_S:.0f} s")
