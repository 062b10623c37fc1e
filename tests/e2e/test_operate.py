"""The operators' commands on the installed chart: in the daemon's pod, and from outside through Kubernetes' API."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.conftest import Installed
from tests.real.stack import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def inside(installed: Installed, *command: str) -> Any:
    name = f"deploy/{daemon_of(installed)}"
    return json.loads(installed.main("exec", name, "-c", "daemon", "--", "flowgroup", *command, "--json"))


def daemon_of(installed: Installed) -> str:
    found = installed.main.json("get", "deploy", "-l", "app.kubernetes.io/component=daemon")["items"]
    return str(found[0]["metadata"]["name"])


def outside(installed: Installed, *command: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
    clean |= {"KUBECONFIG": installed.config, "FLOWGROUP_BACKEND": "kubernetes"}
    clean["FLOWGROUP_KUBERNETES_NAMESPACE"] = installed.jobs.namespace
    where = ["--pool", "default", "--agent-namespace", installed.main.namespace]
    return subprocess.run(
        [sys.executable, "-m", "flowgroup", *command, *where],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def cluster(installed: Installed) -> str:
    """A cluster with a worker, left by a run of the check's flow."""
    name = f"deploy/{daemon_of(installed)}"
    installed.main("exec", name, "-c", "daemon", "--", "flowgroup", "check", "--pool", "default", "--workers", "1")

    def with_its_worker() -> list[str]:  # which may still be starting: the run did not need it
        there = inside(installed, "cluster", "list")
        return [one["name"] for one in there if one["flow"] == "flowgroup-check" and one["workers"]]

    return str(wait_for(with_its_worker, "the check's cluster has its worker", 120)[0])


def test_the_daemons_pod_tells_how_all_stands(installed: Installed, cluster: str) -> None:
    standing = inside(installed, "status")
    assert standing["backend"] == "kubernetes"
    assert cluster in {one["name"] for one in standing["clusters"]}


def test_doctor_in_the_daemons_pod_finds_every_right_and_a_policy_that_is_enforced(
    installed: Installed, cluster: str
) -> None:
    checks = {one["name"]: one for one in inside(installed, "doctor")["checks"]}
    rights = [name for name in checks if name.startswith("may-")]
    assert len(rights) > 20
    assert {name: one["detail"] for name, one in checks.items() if not one["ok"] and name != "image"} == {}
    assert checks["dask-operator"]["detail"].startswith("it has served")


def test_logs_and_a_reset_from_outside(installed: Installed, cluster: str) -> None:
    said = outside(installed, "logs", "--cluster", cluster, "--role", "driver")
    assert said.returncode == 0, said.stderr
    assert f"{cluster}-driver" in said.stdout
    uid = installed.jobs.json("get", "daskcluster", cluster)["metadata"]["uid"]
    asked = outside(installed, "cluster", "reset", cluster)
    assert asked.returncode == 0, asked.stderr
    wait_for(lambda: cluster not in clusters(installed) or clusters(installed)[cluster] != uid, "the cluster goes", 180)


def clusters(installed: Installed) -> dict[str, str]:
    items = installed.jobs.json("get", "daskclusters")["items"]
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}


def test_what_is_rendered_is_what_kubernetes_takes(installed: Installed) -> None:
    env = {**os.environ, "FLOWGROUP_KUBERNETES_NAMESPACE": installed.jobs.namespace}
    command = [
        sys.executable,
        "-m",
        "flowgroup",
        "render",
        "--set",
        "workers=1",
        "--set",
        "image=registry.example/flows:1",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    cluster = json.loads(done.stdout)["items"][0]
    said = installed.jobs("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(cluster))
    assert json.loads(said)["metadata"]["name"] == cluster["metadata"]["name"]
