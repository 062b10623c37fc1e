"""On a real Kubernetes: a deployment's env in tasks on workers, and start scripts that fail in one kind of pod only."""

import json
import time
import uuid
from typing import Any

import pytest

from tests.edge.kubernetes.test_environment import block
from tests.edge.kubernetes.test_whole import HERE, World, found, world
from tests.real.stack import wait_for

__all__ = ["world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.filterwarnings("default::ResourceWarning")]

SAID_WITHIN_S = 60
WORD = f"hush-{uuid.uuid4().hex}"
FAILS_ON_WORKERS = """
case $(hostname) in
*-worker-*) echo "no such place: /data" >&2; exit 3 ;;
esac
echo "well on $(hostname)"
"""
FAILS_ON_SCHEDULER = """
case $(hostname) in
*-scheduler-*) echo "no such place: /data" >&2; exit 3 ;;
esac
"""


def deployed(world: World, name: str, **variables: Any) -> str:
    """A deployment whose job variables have this in them too."""
    made = world.deploy("lab.py:lab", name, "--workers", "1", "--idle-timeout-s", "1")
    there = world.stack.api.get(f"/deployments/{made}").json()["job_variables"]
    answer = world.stack.api.patch(f"/deployments/{made}", json={"job_variables": {**there, **variables}})
    assert answer.is_success, answer.text
    return made


def _cluster_in(message: str) -> str:
    """The cluster of a run that was never sent."""
    return message.removeprefix("Cluster ").partition(" ")[0]


def test_a_task_on_a_worker_has_the_deployments_env_and_a_blocks_value_is_in_a_secret_alone(world: World) -> None:
    name = f"word-{uuid.uuid4().hex[:8]}"
    block(world, name, WORD)
    env = {
        "MODE": "prod",
        "TOKEN_OF_BLOCK": f"Bearer {{{{ prefect.blocks.secret.{name} }}}}",
        "PRICE": "$(MODE) $MODE",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "HTTP_PROXY": f"http://{HERE}:9",  # where nobody listens: Prefect's API is not asked through it
        "NO_PROXY": HERE,
    }
    groups = [{"name": "more", "count": 1, "dask_resources": {"MORE": 1}}]
    script = 'echo "the mode is $MODE"'
    lab = deployed(world, "env", env=env, worker_groups=groups, start_script=script, idle_timeout_s=30)
    del env["NO_PROXY"]  # to which loopback is added
    asked = {"names": [*env, "OWN"], "files": [], "modules": []}
    run = world.start(lab, {"env": {"OWN": "x"}}, what="finds", with_=asked)
    assert world.stack.wait(run, timeout_s=180)["state_name"] == "Completed", world.stack.message(run)
    told = {**env, "TOKEN_OF_BLOCK": f"Bearer {WORD}"}
    assert found(world, run) == {"run": {**told, "OWN": "x"}, "worker": {**told, "OWN": None}}
    world.stack.wait_log(run, "the mode is prod")

    cluster = world.stack.cluster_of(run)
    kinds = "pods,daskclusters,daskworkergroups,deployments,replicasets,configmaps,services,events"
    assert WORD not in world.kubectl("get", kinds, "-o", "yaml")
    (secret,) = [item for item in world.kubectl.json("get", "secrets")["items"] if item["metadata"]["name"] == cluster]
    assert "env.TOKEN_OF_BLOCK" in secret["data"]
    workers = world.kubectl.json("get", "pods", "-l", "flowgroup.dev/role=worker")["items"]
    assert len(workers) == 2
    for pod in workers:
        entries = {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}
        assert entries["MODE"]["value"] == "prod"
        assert entries["TOKEN_OF_BLOCK"]["valueFrom"]["secretKeyRef"]["name"] == cluster
    for pod in world.kubectl.names("pods"):
        assert WORD not in world.kubectl("logs", pod).replace(f"found {told}", "")
    assert WORD not in (world.stack.home / "daemon.log").read_text()


def test_a_start_script_that_fails_in_one_kind_of_pod_is_said_by_pod_status_and_lines_and_leaves_nothing(
    world: World,
) -> None:
    lab = deployed(world, "fails")
    began = time.monotonic()
    runs = {
        "worker": world.start(lab, {"start_script": FAILS_ON_WORKERS}, what="dask_itself"),
        "scheduler": world.start(lab, {"start_script": FAILS_ON_SCHEDULER}, what="dask_itself"),
    }
    for run in runs.values():
        assert world.stack.wait(run, timeout_s=2 * SAID_WITHIN_S)["state_name"] == "Crashed", world.stack.message(run)
    took_s = time.monotonic() - began
    for role, run in runs.items():
        said = world.stack.message(run)
        print(f"{role}, all said after {took_s:.0f} s: {said}")
        cluster = _cluster_in(said)
        assert f"the {role} (pod {cluster}-" in said
        assert f"-{role}-" in said
        assert "[start-script] Its last lines:\nno such place: /data" in said
        assert "the start script ended with status 3" in said
        assert said.count("no such place") == 1
    assert took_s < SAID_WITHIN_S
    clusters = [_cluster_in(world.stack.message(run)) for run in runs.values()]
    kinds = ("daskclusters", "pods", "secrets", "deployments", "services", "configmaps", "networkpolicies")

    def left() -> list[str]:
        return [name for kind in kinds for name in world.kubectl.names(kind) if any(one in name for one in clusters)]

    wait_for(lambda: not left(), f"nothing of {json.dumps(clusters)} is left", 120)


def test_a_path_that_does_not_lead_to_python_is_said(world: World) -> None:
    lab = deployed(world, "path", env={"PATH": "/nowhere"})
    run = world.start(lab, {}, what="dask_itself")
    assert world.stack.wait(run, timeout_s=2 * SAID_WITHIN_S)["state_name"] == "Crashed"
    said = world.stack.message(run)
    print(said)
    assert (
        "there is no python in it that could be run (by its PATH, or by the one that the deployment's env sets)" in said
    )
