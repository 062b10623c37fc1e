"""Who is measured on Kubernetes: the installed chart, and Prefect's Kubernetes worker with its defaults."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def kubernetes_worker(bench: Bench, there: Installed, size: Size, python: Path) -> Side:
    """
    `prefect worker start --type kubernetes` on this machine; `python` has prefect-kubernetes. The flow is in the image, so
    that nothing is pulled, and the image is on the node.
    """
    if not python.exists():
        raise Refused(f"{python} is not there: make bench-kubernetes makes it, with prefect-kubernetes in it")
    pool, namespace = f"pods-{uuid.uuid4().hex[:6]}", f"{there.before}peer"
    there.kubectl("create", "namespace", namespace)
    runs.post(bench.api, "/work_pools/", {"name": pool, "type": "kubernetes"})
    flow = runs.post(bench.api, "/flows/", {"name": "empty"})["id"]
    asked = {"image": there.image, "image_pull_policy": "IfNotPresent", "namespace": namespace, "finished_job_ttl": 30}
    body = {"name": pool, "flow_id": flow, "work_pool_name": pool, "entrypoint": _EMPTY, "job_variables": asked}
    found = {"empty": str(runs.post(bench.api, "/deployments/", body)["id"])}
    return Side(PODS, size, pool, found, _worker(bench, there, pool, namespace, python))


@contextmanager
def _worker(bench: Bench, there: Installed, pool: str, namespace: str, python: Path) -> Iterator[None]:
    command = [str(python.absolute()), "-m", "prefect", "worker", "start", "--type", "kubernetes", "--pool", pool]
    noted: list[Running] = []
    try:
        with worker_up(bench, command, {"KUBECONFIG": there.env["KUBECONFIG"]}, noted):
            yield
    finally:
        told(["kubectl", "delete", "namespace", namespace, "--wait=true"], there.env)


def first_line(bench: Bench, run: str, begins: str) -> str:
    """The rest of a run's first line that begins so. Raises Permanent when there is none within some seconds of its end."""
    deadline = time.monotonic() + _LINE_TIMEOUT_S
    while time.monotonic() < deadline:
        for entry in runs.lines(bench.api, [run]):
            if str(entry["message"]).startswith(begins):
                return str(entry["message"]).removeprefix(begins)
        time.sleep(_LOOK_S)
    raise Permanent(f"run {run} did not say {begins!r} within {_LINE_TIMEOUT_S:.0f} s")
