"""
What goes wrong on a real Kubernetes is said in the run's state by its cause: provoked here, each within ten seconds of what
Kubernetes says of it.

Not provoked: pressure of a node (memory, disk, pids), preemption, a lost node, registries that refuse or limit (none is
reachable), a sandbox that cannot be made, a device that is gone; those have golden messages only (tests/causes).
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flowgroup.model.causes import code_of
from tests.edge.kubernetes.test_whole import World, world
from tests.real.stack import wait_for

__all__ = ["world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.filterwarnings("default::ResourceWarning")]

MORE_SETTINGS = {"FLOWGROUP_KUBERNETES_PULL_TIMEOUT_S": "5", "FLOWGROUP_DRIVER_LOST_S": "5"}
MORE_SIZES = {
    "huge-cpu": {"cpu": "900", "memory": "400Mi"},
    "huge-memory": {"cpu": "100m", "memory": "9000Gi"},
    "many-gpus": {"cpu": "100m", "memory": "400Mi", "gpu": 99},
    "room": {"cpu": "100m", "memory": "700Mi"},
}
WITHIN_S = 10.0
STARTED_S = 150.0


@pytest.fixture(scope="module")
def bare(world: World) -> str:
    """A deployment without workers, each run of it on a cluster of its own."""
    return world.deploy("lab.py:lab", "bare", "--mode", "per-run")


@pytest.fixture(scope="module")
def dask(world: World) -> str:
    return world.deploy("lab.py:lab", "dask", "--mode", "per-run", "--workers", "1", "--worker-threads", "1")


def running(world: World, deployment: str, variables: dict[str, Any], **parameters: Any) -> str:
    run = world.start(deployment, variables, **parameters)
    world.stack.wait(run, "Running", timeout_s=STARTED_S)
    return run


def driver_of(world: World, run: str) -> str:
    return f"{world.stack.cluster_of(run)}-driver"


def ended(world: World, run: str, *codes: str, within_s: float = WITHIN_S) -> str:
    """The message of a run that ends soon, by one of these causes."""
    began = time.monotonic()
    state = world.stack.wait(run, timeout_s=within_s + 60)["state_type"]
    took_s, message = time.monotonic() - began, world.stack.message(run)
    print(f"{state} after {took_s:.1f} s: {message}")
    assert code_of(message) in codes, message
    assert took_s <= within_s, f"said after {took_s:.1f} s: {message}"
    return message


def waits(world: World, run: str, code: str) -> str:
    """What a run that waits says, which is then cancelled."""
    wait_for(lambda: code_of(world.stack.message(run)) == code, f"{code} is said: {world.stack.message(run)}", 90)
    message = world.stack.message(run)
    print(message)
    world.stack.cancel(run)
    world.stack.wait(run, timeout_s=60)
    return message


@contextlib.contextmanager
def applied(world: World, *objects: dict[str, Any]) -> Iterator[None]:
    world.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    try:
        yield
    finally:
        for one in objects:
            world.kubectl("delete", one["kind"].lower(), one["metadata"]["name"], "--ignore-not-found")


def test_a_run_that_takes_more_memory_than_its_driver_has(world: World, bare: str) -> None:
    run = running(world, bare, {"driver_size": "room"}, what="eats", with_={"mebibytes": 3000})
    message = ended(world, run, "oom-container", "oom-child", within_s=30)  # it takes some seconds to eat so much
    assert "0.68 GiB" in message, message


def test_a_run_that_takes_more_memory_than_its_deployment_says(world: World, bare: str) -> None:
    variables = {"memory_limit_bytes": 300 << 20}
    run = running(world, bare, variables, what="eats", with_={"mebibytes": 600})
    ended(world, run, "memory-limit", within_s=30)


def test_a_driver_that_is_evicted_by_the_api(world: World, bare: str) -> None:
    run = running(world, bare, {}, what="sleeps", with_={"seconds": 300})
    pod = driver_of(world, run)
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    world.kubectl(
        *("create", "--raw", f"/api/v1/namespaces/{world.kubectl.namespace}/pods/{pod}/eviction", "-f", "-"),
        stdin=json.dumps(body),
    )
    ended(world, run, "evicted-api", within_s=WITHIN_S + 10)  # its pod has ten seconds to end


def test_a_driver_that_is_deleted(world: World, bare: str) -> None:
    run = running(world, bare, {}, what="sleeps", with_={"seconds": 300})
    world.kubectl("delete", "pod", driver_of(world, run), "--wait=false")
    ended(world, run, "pod-deleted", within_s=WITHIN_S + 10)


def test_a_driver_whose_time_is_up(world: World, bare: str) -> None:
    run = running(world, bare, {}, what="sleeps", with_={"seconds": 300})
    world.kubectl("patch", "pod", driver_of(world, run), "-p", '{"spec":{"activeDeadlineSeconds":1}}')
    ended(world, run, "deadline", within_s=WITHIN_S + 10)


def test_a_child_that_ends_by_itself(world: World, bare: str) -> None:
    run = running(world, bare, {}, what="sleeps_then_dies", with_={"seconds": 3})
    assert "exit code 9" in ended(world, run, "child-exit", within_s=WITHIN_S + 3)


def test_what_is_not_there_or_cannot_be_named(world: World, bare: str) -> None:
    secret = {"env_value_from": {"A": {"secretKeyRef": {"name": "lost-secret", "key": "x"}}}}
    config_map = {"env_value_from": {"A": {"configMapKeyRef": {"name": "lost-map", "key": "x"}}}}
    runs = {
        "missing-secret": world.start(bare, secret, what="hash_seed"),
        "missing-configmap": world.start(bare, config_map, what="hash_seed"),
    }
    for code, run in runs.items():
        assert "lost-" in ended(world, run, code, within_s=60)


def test_an_image_that_no_registry_gives(world: World, bare: str) -> None:
    assert "cannot be pulled" in waits(
        world, world.start(bare, {"image": "localhost:1/none:1"}, what="hash_seed"), "image-unreachable"
    )


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"driver_size": "huge-cpu"}, "unschedulable-cpu"),
        ({"driver_size": "huge-memory"}, "unschedulable-memory"),
        ({"driver_size": "many-gpus"}, "unschedulable-gpu"),
        ({"driver_size": "nowhere"}, "unschedulable-affinity"),
        (
            {
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "lost-claim"}}],
                "volume_mounts": [{"name": "v", "mountPath": "/v"}],
            },
            "unschedulable-volume",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pod_that_no_node_takes(world: World, bare: str, variables: dict[str, Any], code: str) -> None:
    waits(world, world.start(bare, variables, what="hash_seed"), code)


def test_a_namespace_whose_quota_is_used_up(world: World, bare: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    with applied(world, quota):
        waits(world, world.start(bare, {}, what="hash_seed"), "quota")


def is_denied(world: World) -> bool:
    """A pod that the namespace would take otherwise."""
    secured = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "driver", "image": "none", "securityContext": secured}
    whole = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": whole}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": spec}
    try:
        world.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    except AssertionError as exc:
        return "no drivers here" in str(exc)
    return False


def test_a_rule_of_the_cluster_that_forbids_the_driver(world: World, bare: str) -> None:
    name = f"no-drivers-{world.kubectl.namespace}"
    group, rules = "admissionregistration.k8s.io/v1", {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    label = {"kubernetes.io/metadata.name": world.kubectl.namespace}
    policy = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{**rules, "operations": ["CREATE"]}]},
            "validations": [{"expression": "object.spec.containers[0].name != 'driver'", "message": "no drivers here"}],
        },
    }
    binding = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": label}},
        },
    }
    with applied(world, policy, binding):
        wait_for(lambda: is_denied(world), "the API server knows the rule", 60)
        run = world.start(bare, {}, what="hash_seed")
        assert "no drivers here" in ended(world, run, "webhook-denied", within_s=30)


def test_a_scheduler_that_is_killed(world: World, dask: str) -> None:
    run = running(world, dask, {}, what="sleeps_on_dask", with_={"seconds": 300})
    cluster = world.stack.cluster_of(run)
    pods = world.kubectl("get", "pods", "-l", "flowgroup.dev/role=scheduler", "-o", "name").split()
    (pod,) = [name for name in pods if cluster in name]
    world.kubectl("delete", pod, "--grace-period=0", "--force", "--wait=false")
    ended(world, run, "scheduler-died", "worker-lost", within_s=WITHIN_S + 10)


def test_a_task_that_takes_more_memory_than_its_worker_has(world: World, dask: str) -> None:
    """Dask tries it on four workers in a row; kubelet waits longer each time before it starts the container again."""
    run = running(world, dask, {"worker_size": "room"}, what="eats_on_dask", with_={"mebibytes": 3000})
    message = ended(world, run, "oom-container", within_s=600)
    assert "[killed-worker]" in message
    assert "memory limit 0.68 GiB" in message
