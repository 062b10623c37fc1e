"""Clusters' lives on a real Kubernetes: made once, made in time, and gone when nobody is left to need or to delete them."""

import json
import subprocess
import sys
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
_OPERATOR_TIMEOUT_S = 25  # the operator's own start is in it
_RENEW_EVERY_S = 3
_SILENT_S = 15
_AHEAD_S = 50.0


@pytest.fixture(scope="module")
def at(world: World) -> World:
    """With a daemon that renews often, and a backend that gives the operator up soon."""
    world.daemon.env |= {
        "FLOWGROUP_KUBERNETES_RENEW_EVERY_S": str(_RENEW_EVERY_S),
        "FLOWGROUP_KUBERNETES_OPERATOR_TIMEOUT_S": str(_OPERATOR_TIMEOUT_S),
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


def made_last(at: World) -> str:
    return str(at.stack.events("cluster_make")[-1]["cluster"])


def left(at: World, cluster: str) -> list[str]:
    """What there is of this cluster."""
    return at.kubectl("get", _KINDS, "-l", f"flowgroup.dev/cluster={cluster}", "-o", "name").split()


def deploy(at: World, name: str, *more: str) -> str:
    return at.deploy("lab.py:lab", name, "--workers", "1", *more)


def janitor(at: World) -> list[tuple[str, str]]:
    """What it says of which cluster."""
    flags = ("--namespace", at.kubectl.namespace, f"--after-s={_SILENT_S}", "--again-s=2", "--operator-timeout-s=25")
    done = subprocess.run(
        [sys.executable, "-m", "flowgroup", "janitor", *flags],
        env=at.daemon.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    return [(entry["event"], entry.get("cluster", "")) for entry in said]


def figure(at: World, name: str) -> float:
    told = json.loads((at.daemon.home / at.daemon.pool / "daemon.json").read_text())
    text = httpx.get(f"http://127.0.0.1:{told['health_port']}/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_two_images_of_one_flow_are_two_clusters_however_many_runs_alternate(at: World) -> None:
    """The first runs of both come together too. One image under two names is two images."""
    names = (real.IMAGE, real.IMAGE.removeprefix("docker.io/library/"))
    if names[0] == names[1]:
        pytest.skip(f"{real.IMAGE} has one name only")
    stays = ("--idle-timeout-s", "30")
    deployments = [deploy(at, f"image-{number}", "--image", image, *stays) for number, image in enumerate(names)]
    before = figure(at, "flowgroup_clusters_made_total")
    runs = [at.stack.start(deployments[number % 2], what="dask_itself") for number in range(20)]
    ended = [at.stack.wait(run, timeout_s=180) for run in runs]
    assert {run["state_name"] for run in ended} == {"Completed"}
    assert figure(at, "flowgroup_clusters_made_total") - before == 2
    there = at.kubectl.json("get", "daskclusters")["items"]
    images = [item["spec"]["scheduler"]["spec"]["containers"][0]["image"] for item in there]
    assert sorted(images) == sorted(names)


def test_the_janitor_removes_what_no_daemon_keeps_and_nothing_else(at: World) -> None:
    at.run(deploy(at, "kept", "--idle-timeout-s", "600"), what="dask_itself")
    cluster = made_last(at)

    def seconds_since(what: str) -> float:
        metadata = at.kubectl.json("get", "daskcluster", cluster)["metadata"]
        moment = metadata.get(what) or metadata["annotations"][what]
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()

    wait_for(lambda: seconds_since("creationTimestamp") > _SILENT_S, "it is older than the limit", 60)
    assert cluster not in [about for _, about in janitor(at)]
    assert seconds_since("flowgroup.dev/renewed-at") < _SILENT_S
    at.daemon.stop()
    try:
        wait_for(lambda: seconds_since("flowgroup.dev/renewed-at") > _SILENT_S, "its last renewal is old", 60)
        of_it = [event for event, about in janitor(at) if about == cluster]
        assert of_it == ["cluster_without_daemon", "cluster_without_daemon", "cluster_removed"]
        assert left(at, cluster) == []
    finally:
        at.daemon.start()


def test_a_deaf_operator_is_said_in_the_runs_state_and_leaves_nothing(at: World, without_operator: None) -> None:
    run = at.stack.start(deploy(at, "deaf", "--worker-threads", "3", "--idle-timeout-s", "1"), what="dask_itself")
    assert at.stack.wait(run, timeout_s=90)["state_name"] == "Crashed"
    assert "the Dask operator has made no scheduler" in at.stack.message(run)
    assert "is it running" in at.stack.message(run)
    cluster = made_last(at)
    wait_for(lambda: left(at, cluster) == [], "nothing is left", 90)


def test_a_late_operator_is_waited_for_and_its_phase_is_not_believed(at: World, without_operator: None) -> None:
    before = made_last(at)
    run = at.stack.start(deploy(at, "late", "--worker-threads", "4", "--idle-timeout-s", "60"), what="dask_itself")
    cluster = wait_for(lambda: made_last(at) != before and made_last(at), "its cluster is being made", 30)
    at.operator.start()
    wait_for(lambda: sum(name.startswith("pod/") for name in left(at, cluster)) == 3, "its pods are made", 60)
    at.operator.stop()
    at.kubectl("patch", "daskcluster", cluster, "--type=merge", "-p", '{"status":{"phase":null}}')
    assert at.stack.wait(run, timeout_s=120)["state_name"] == "Completed", at.stack.message(run)
    assert "phase" not in (at.kubectl.json("get", "daskcluster", cluster).get("status") or {})


def test_an_operator_that_dies_in_the_middle_of_a_deletion_leaves_nothing(at: World, without_operator: None) -> None:
    at.operator.start()
    deployment = deploy(at, "dies", "--worker-threads", "5", "--idle-timeout-s", "1")
    at.run(deployment, what="dask_itself")
    cluster = made_last(at)

    def is_leaving() -> bool:
        there = at.kubectl.json("get", "daskclusters", "-l", f"flowgroup.dev/cluster={cluster}")["items"]
        return not there or "deletionTimestamp" in there[0]["metadata"]

    wait_for(is_leaving, "it is being deleted", 30)
    at.operator.stop()
    wait_for(lambda: left(at, cluster) == [], "nothing is left", 90)


def test_a_run_scheduled_ahead_has_its_cluster_at_its_time(at: World) -> None:
    """The figure is the bench's: on a machine that is busy a cluster may take longer to come than there was time."""
    deployment = deploy(at, "ahead", "--worker-threads", "6")
    due_at = datetime.now(UTC) + timedelta(seconds=_AHEAD_S)
    state: dict[str, Any] = {"type": "SCHEDULED", "state_details": {"scheduled_time": due_at.isoformat()}}
    body = {"parameters": {"what": "dask_itself"}, "state": state}
    answer = at.stack.api.post(f"/deployments/{deployment}/create_flow_run", json=body)
    assert answer.is_success, answer.text
    run = str(answer.json()["id"])
    assert at.stack.wait(run, timeout_s=_AHEAD_S + 60)["state_name"] == "Completed"
    began = next(one for one in at.stack.history(run) if one["type"] == "RUNNING")
    late_s = (datetime.fromisoformat(began["timestamp"]) - due_at).total_seconds()
    print(f"started {late_s:.2f} s after its time, with no cluster {_AHEAD_S:.0f} s before")
    made = [one for one in at.stack.events("cluster_make") if one["cluster"] == made_last(at)][-1]
    placed = next(one for one in at.stack.events("run_placed") if one["run"] == run)
    assert datetime.fromisoformat(made["timestamp"]) < due_at - timedelta(seconds=10)
    assert late_s >= 0
    assert late_s < 2 or datetime.fromisoformat(placed["timestamp"]) > due_at - timedelta(seconds=1)
