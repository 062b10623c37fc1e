"""Clusters' lives on a real Kubernetes: made once, made in time, and gone when nobody is left to need or to delete them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.edge.kubernetes import real
from tests.edge.kubernetes.test_whole import World, world
from tests.real.stack import wait_for

__all__ = ["world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.filterwarnings("default::ResourceWarning")]
_KINDS = "daskclusters,daskworkergroups,pods,secrets,networkpolicies,services,deployments,configmaps"
_OPERATOR_TIMEOUT_S = 10
_AHEAD_S = 40.0


@pytest.fixture(scope="module")
def at(world: World) -> World:
    """With a daemon that renews often, and a backend that gives the operator up soon."""
    world.daemon.env |= {
        "FLOWGROUP_KUBERNETES_RENEW_EVERY_S": "1",
        "FLOWGROUP_KUBERNETES_OPERATOR_TIMEOUT_S": str(_OPERATOR_TIMEOUT_S),
        "FLOWGROUP_LOG_LEVEL": "debug",
    }
    world.daemon.restart()
    return world


@pytest.fixture
def without_operator(at: World) -> Iterator[None]:
    if at.operator.is_foreign:
        pytest.skip("an operator that serves the whole cluster is not ours to stop")
    at.operator.stop()
    yield
    at.operator.stop()
    at.operator.start()


def left(at: World) -> list[str]:
    return [name for name in at.kubectl.names(_KINDS) if name != "configmap/the-ca"]


def deploy(at: World, name: str, *more: str) -> str:
    return at.deploy("lab.py:lab", name, "--workers", "1", *more)


def janitor(at: World) -> str:
    flags = ("--namespace", at.kubectl.namespace, "--after-s=5", "--again-s=2", "--operator-timeout-s=10")
    done = subprocess.run(
        [sys.executable, "-m", "flowgroup", "janitor", *flags],
        env=at.daemon.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def figure(at: World, name: str) -> float:
    told = json.loads((at.daemon.home / at.daemon.pool / "daemon.json").read_text())
    text = httpx.get(f"http://127.0.0.1:{told['health_port']}/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_two_images_of_one_flow_are_two_clusters_however_many_runs_alternate(at: World) -> None:
    """The first runs of both come together too. One image under two names is two images."""
    names = (real.IMAGE, real.IMAGE.removeprefix("docker.io/library/"))
    if names[0] == names[1]:
        pytest.skip(f"{real.IMAGE} has one name only")
    deployments = [deploy(at, f"image-{number}", "--image", image) for number, image in enumerate(names)]
    before = figure(at, "flowgroup_clusters_made_total")
    runs = [at.stack.start(deployments[number % 2], what="my_worker") for number in range(20)]
    ended = [at.stack.wait(run, timeout_s=180) for run in runs]
    assert {run["state_name"] for run in ended} == {"Completed"}
    assert figure(at, "flowgroup_clusters_made_total") - before == 2
    there = at.kubectl.json("get", "daskclusters")["items"]
    images = [item["spec"]["scheduler"]["spec"]["containers"][0]["image"] for item in there]
    assert sorted(images) == sorted(names)


def test_the_janitor_removes_what_no_daemon_keeps_and_nothing_else(at: World) -> None:
    at.run(deploy(at, "kept", "--idle-timeout-s", "600"), what="my_worker")
    wait_for(lambda: len(at.kubectl.names("daskclusters")) == 1, "only that one is left", 60)
    (cluster,) = at.kubectl.names("daskclusters")

    def age_s() -> float:
        made = at.kubectl.json("get", cluster)["metadata"]["creationTimestamp"]
        return (datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds()

    wait_for(lambda: age_s() > 10, "it is older than the limit", 30)
    assert "cluster_without_daemon" not in janitor(at)
    assert at.kubectl.names("daskclusters") == [cluster]
    noted = at.kubectl.json("get", cluster)["metadata"]["annotations"]
    assert noted["flowgroup.dev/good-for-s"] == "3"
    at.daemon.stop()
    try:
        renewed_at = time.monotonic()
        wait_for(lambda: time.monotonic() - renewed_at > 7, "its last renewal is old", 30)
        said = janitor(at)
        assert "cluster_without_daemon" in said
        assert "cluster_removed" in said
        assert left(at) == []
    finally:
        at.daemon.start()


def test_a_deaf_operator_is_said_in_the_runs_state_and_leaves_nothing(at: World, without_operator: None) -> None:
    run = at.stack.start(deploy(at, "deaf", "--worker-threads", "3", "--idle-timeout-s", "1"), what="my_worker")
    assert at.stack.wait(run, timeout_s=90)["state_name"] == "Crashed"
    assert "the Dask operator has made no scheduler" in at.stack.message(run)
    assert "is it running" in at.stack.message(run)
    wait_for(lambda: left(at) == [], "nothing is left", 90)


def test_a_late_operator_is_waited_for_and_its_phase_is_not_believed(at: World, without_operator: None) -> None:
    run = at.stack.start(deploy(at, "late", "--worker-threads", "4", "--idle-timeout-s", "60"), what="my_worker")
    (cluster,) = wait_for(lambda: at.kubectl.names("daskclusters"), "its cluster is being made", 30)
    at.operator.start()
    wait_for(
        lambda: "/" in str(at.kubectl.names("pods")) and len(at.kubectl.names("pods")) == 3, "its pods are made", 60
    )
    at.operator.stop()
    at.kubectl("patch", cluster, "--type=merge", "-p", '{"status":{"phase":null}}')
    assert at.stack.wait(run, timeout_s=120)["state_name"] == "Completed", at.stack.message(run)
    assert "phase" not in (at.kubectl.json("get", cluster).get("status") or {})


def test_an_operator_that_dies_in_the_middle_of_a_deletion_leaves_nothing(at: World, without_operator: None) -> None:
    at.operator.start()
    wait_for(lambda: left(at) == [], "former clusters are gone", 120)
    deployment = deploy(at, "dies", "--worker-threads", "5", "--idle-timeout-s", "1")
    at.run(deployment, what="my_worker")

    def is_leaving() -> bool:
        there = at.kubectl.json("get", "daskclusters")["items"]
        return any("deletionTimestamp" in item["metadata"] for item in there) or not there

    wait_for(is_leaving, "it is being deleted", 30)
    at.operator.stop()
    wait_for(lambda: left(at) == [], "nothing is left", 90)
    again = at.stack.start(deployment, what="my_worker")
    at.operator.start()
    assert at.stack.wait(again, timeout_s=120)["state_name"] == "Completed", at.stack.message(again)


def test_a_run_scheduled_ahead_has_its_cluster_at_its_time(at: World) -> None:
    """The figure is the bench's; here it is in time at all, on a machine that is busy."""
    deployment = deploy(at, "ahead", "--worker-threads", "6")
    due_at = datetime.now(UTC) + timedelta(seconds=_AHEAD_S)
    state: dict[str, Any] = {"type": "SCHEDULED", "state_details": {"scheduled_time": due_at.isoformat()}}
    body = {"parameters": {"what": "my_worker"}, "state": state}
    answer = at.stack.api.post(f"/deployments/{deployment}/create_flow_run", json=body)
    assert answer.is_success, answer.text
    run = str(answer.json()["id"])
    assert at.stack.wait(run, timeout_s=_AHEAD_S + 60)["state_name"] == "Completed"
    began = next(one for one in at.stack.history(run) if one["type"] == "RUNNING")
    late_s = (datetime.fromisoformat(began["timestamp"]) - due_at).total_seconds()
    print(f"started {late_s:.2f} s after its time, with no cluster {_AHEAD_S:.0f} s before")
    assert 0 <= late_s < 5
