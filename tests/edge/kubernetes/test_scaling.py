"""Groups of workers that grow and shrink, GPUs, and pools of nodes: through all that is ours, on a real Kubernetes."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.kubernetes import real
from tests.edge.kubernetes.test_whole import World, found
from tests.edge.kubernetes.test_whole import world as world  # the fixture
from tests.real.stack import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.filterwarnings("default::ResourceWarning")]

CLUSTER = Path(__file__).parents[4] / "shared" / "cluster" / "cluster"
GPU = {"name": "gpu", "size": "gpu", "dask_resources": {"GPU": 1}}
SIZES = {
    "small": {"memory": "500Mi"},  # no limit of CPU: importing would take a minute
    "gpu": {"memory": "500Mi", "gpu": 1},
    "gpu-large": {
        "cpu": "8",
        "memory": "64Gi",
        "gpu": 8,
        "nodeSelector": {"pool": "gpu-large"},
        "tolerations": [{"key": "kwok", "operator": "Exists", "effect": "NoSchedule"}],
    },
}


def cluster(*arguments: str) -> None:
    if not real.is_shared(real.kubeconfig()):
        pytest.skip("only the shared test cluster has pretended GPUs and nodes")
    subprocess.run([str(CLUSTER), *arguments], check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def scaled(world: World) -> World:
    """With sizes of its own, and workers that go when they have been idle for some seconds."""
    Path(world.daemon.env["FLOWGROUP_KUBERNETES_SIZES"]).write_text(json.dumps(SIZES))
    world.daemon.env["FLOWGROUP_DRIVER_SCALE_IDLE_S"] = "4"
    world.daemon.env["FLOWGROUP_CLUSTER_TIMEOUT_S"] = "300"
    world.daemon.restart()
    return world


@pytest.fixture
def gpus() -> Iterator[None]:
    cluster("gpus", "2")
    yield
    cluster("gpus", "0")


@pytest.fixture(scope="module")
def lab(scaled: World) -> str:
    more = ("--workers", "0", "--worker-size", "small", "--idle-timeout-s", "60")
    return scaled.deploy("lab.py:lab", "scaled", *more)


def ended(world: World, run: str, timeout_s: float = 300) -> Any:
    assert world.stack.wait(run, timeout_s=timeout_s)["state_name"] == "Completed", world.stack.message(run)
    return found(world, run)


def workers(world: World) -> list[str]:
    """Names of the Deployments of default groups."""
    return [name for name in world.kubectl.names("deployments") if "-default-worker-" in name]


def test_from_no_worker_a_run_gets_its_workers_and_without_work_they_go_again(scaled: World, lab: str) -> None:
    numbers = {"workers_min": 0, "workers_max": 3}
    began = time.monotonic()
    run = scaled.start(lab, numbers, what="spreads", with_={"tasks": 6, "seconds": 4})
    wait_for(lambda: workers(scaled), "the first worker is made", 60)
    on = ended(scaled, run)
    print(f"six tasks of 4 s from no worker: {time.monotonic() - began:.1f} s, on {len(on)} workers")
    assert len(on) > 1
    began = time.monotonic()
    wait_for(lambda: workers(scaled) == [], "all workers are gone", 90)
    print(f"all gone after {time.monotonic() - began:.1f} s")
    groups = scaled.kubectl.json("get", "daskworkergroups")["items"]
    assert [group["spec"]["worker"]["replicas"] for group in groups] == [0]
    began = time.monotonic()
    again = scaled.start(lab, numbers, what="dask_itself")
    assert ended(scaled, again) == 42
    print(f"first task again from no worker on the same cluster: {time.monotonic() - began:.1f} s")
    assert len(scaled.kubectl.names("daskclusters")) == 1


@pytest.mark.usefixtures("gpus")
def test_cpu_workers_go_with_no_result_lost_and_the_gpu_worker_stays(scaled: World, lab: str) -> None:
    numbers = {"workers": 3, "workers_min": 1, "workers_max": 3, "worker_groups": [GPU]}
    run = scaled.start(lab, numbers, what="outlives_workers", with_={"size": 100_000, "many": 4, "left": 2})
    told = ended(scaled, run)
    assert len(told["before"]) == 4
    assert sorted("-gpu-" in name for name in told["after"]) == [False, True]
    assert told["results"] == [(number, 100_000) for number in range(20)]
    there = scaled.kubectl("get", "deployments", "-o", "name")
    assert [name for name in told["before"] if f"/{name}\n" in there] == told["after"]


@pytest.mark.usefixtures("gpus")
def test_tasks_find_the_gpu_worker_by_annotation_and_by_tags(scaled: World, lab: str) -> None:
    numbers = {"workers": 2, "worker_groups": [GPU]}
    annotated = scaled.start(lab, numbers, what="on_resources", with_={"resources": {"GPU": 1}})
    names = ended(scaled, annotated)
    assert {"-gpu-worker-" in name for name in names["dask"] + names["prefect"]} == {True}, names
    made = scaled.kubectl.json("get", "deployment", names["dask"][0])["spec"]["template"]["spec"]
    assert made["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    names = ended(scaled, scaled.start(lab, numbers, what="on_tags"))
    assert {"-gpu-worker-" in name for name in names["own"] + names["around"]} == {True}, names
    assert any("-default-worker-" in name for name in names["plain"]), names


def test_what_no_node_has_is_said_in_the_runs_state_and_waited_for(scaled: World, lab: str) -> None:
    cluster("gpus", "0")
    began = time.monotonic()
    run = scaled.start(lab, {"worker_groups": [{**GPU, "count": 1}]}, what="on_tags")
    wait_for(lambda: "Insufficient nvidia.com/gpu" in scaled.stack.message(run), "it is said", 60)
    print(f"said after {time.monotonic() - began:.1f} s: {scaled.stack.message(run)}")
    assert scaled.stack.run(run)["state_type"] == "PENDING"
    cluster("gpus", "1")
    try:
        assert ended(scaled, run)
    finally:
        cluster("gpus", "0")


@pytest.fixture
def nodes() -> Iterator[None]:
    cluster("fake-nodes", "20", "gpu-large", "8")
    yield
    kubectl = real.Kubectl(real.kubeconfig())
    kubectl("delete", "nodes", "-l", "pool=gpu-large", "--wait=false")


@pytest.mark.usefixtures("nodes")
def test_workers_of_a_named_size_are_bound_to_its_pool_of_nodes(scaled: World, lab: str) -> None:
    large = {"name": "large", "count": 5, "size": "gpu-large", "dask_resources": {"GPU": 8}}
    run = scaled.start(lab, {"worker_groups": [large]}, what="sleeps", with_={"seconds": 120})

    def bound() -> list[dict[str, Any]]:
        pods = scaled.kubectl.json("get", "pods", "-l", "flowgroup.dev/role=worker")["items"]
        ours = [pod for pod in pods if "-large-worker-" in pod["metadata"]["name"]]
        return ours if len(ours) == 5 and all(pod["spec"].get("nodeName") for pod in ours) else []

    there = wait_for(bound, "all are bound", 90)
    assert len({pod["spec"]["nodeName"] for pod in there}) == 5  # eight GPUs each
    assert all(pod["spec"]["nodeName"].startswith("gpu-large-") for pod in there)
    limits = there[0]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "8"
    assert limits["cpu"] == "8"
    scaled.stack.cancel(run)
    scaled.stack.wait(run, "Cancelled", timeout_s=60)
