"""Flows on a real Kubernetes, through all that is ours: daemon and relay on this machine, drivers and workers in pods."""

import ast
import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.dev.patient import Patient
from tests.edge.kubernetes import real
from tests.edge.kubernetes.real import Kubectl, Operator
from tests.fakes.ca import FakeCA
from tests.real.stack import Stack, wait_for
from tests.servers import free_port, running, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.filterwarnings("default::ResourceWarning")]

HERE = os.environ.get("FLOWGROUP_E2E_HOST", "198.19.255.1")  # this machine, as pods reach it
SIZES = {"small": {"cpu": "100m", "memory": "400Mi"}, "nowhere": {"nodeSelector": {"pool": "nowhere"}}}


CLUSTER_TIMEOUT_S = 60


@dataclass
class Daemon:
    """`flowgroup start`, which may be killed and started again."""

    pool: str
    env: dict[str, str]
    home: Path
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        command = [sys.executable, "-m", "flowgroup", "start", "--pool", self.pool]
        ready = self.home / self.pool / "daemon.json"
        ready.unlink(missing_ok=True)
        self._running.enter_context(running(command, self.env, self.home / "daemon.log", ready.exists))

    def stop(self) -> None:
        self._running.close()

    def restart(self) -> None:
        self.stop()
        self.start()


@dataclass
class World:
    stack: Stack
    kubectl: Kubectl
    store: dict[str, str]
    daemon: Daemon
    relay_port: int
    operator: Operator

    def deploy(self, flow: str, name: str, *more: str) -> str:
        return self.stack.deploy(flow, name, *more, store="s3://flowgroup/team", env=self.store)

    def start(self, deployment: str, variables: dict[str, Any], **parameters: Any) -> str:
        """A run with job variables of its own."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "job_variables": variables}
        answer = self.stack.api.post(f"/deployments/{deployment}/create_flow_run", json=body)
        assert answer.is_success, answer.text
        return str(answer.json()["id"])

    def run(self, deployment: str, **parameters: Any) -> str:
        run = self.stack.start(deployment, **parameters)
        assert self.stack.wait(run, timeout_s=180)["state_name"] == "Completed", self.stack.message(run)
        return run


@pytest.fixture(scope="module")
def world(
    prefect_api: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A module's own; its `MORE_SETTINGS` are the daemon's as well, and its `MORE_SIZES` in the catalogue."""
    config, folder = real.kubeconfig(), tmp_path_factory.mktemp("whole")
    real.install_operators_types(Kubectl(config))
    with contextlib.ExitStack() as stack:
        kubectl = stack.enter_context(real.namespace(config))
        operator = Operator(kubectl, folder / "operator.log")
        stack.callback(operator.stop)
        operator.start()
        store = stack.enter_context(s3_server(folder / "s3", host=HERE))
        ca = FakeCA(folder / "ca")
        ca.issue(HERE)
        kubectl("create", "configmap", "the-ca", f"--from-file=ca.crt={ca.file}")
        (folder / "control-key").write_text(uuid.uuid4().hex)
        (folder / "sizes.json").write_text(json.dumps(SIZES | getattr(request.module, "MORE_SIZES", {})))
        daemon_port, relay_port = free_port(), free_port()
        env = _environment(prefect_api, folder, ca) | store
        env |= {
            "KUBECONFIG": config,
            "FLOWGROUP_KUBERNETES_NAMESPACE": kubectl.namespace,
            "FLOWGROUP_KUBERNETES_IMAGE": real.IMAGE,
            "FLOWGROUP_KUBERNETES_DAEMON_ADDRESS": f"tls://{HERE}:{daemon_port}",
            "FLOWGROUP_KUBERNETES_RELAY_ADDRESS": f"https://{HERE}:{relay_port}",
            "FLOWGROUP_KUBERNETES_CA_CONFIG_MAP": "the-ca",
            "FLOWGROUP_KUBERNETES_LISTEN_PORT": str(daemon_port),
            "FLOWGROUP_KUBERNETES_EGRESS": f"{HERE}/32:{store['AWS_ENDPOINT_URL'].rpartition(':')[2]}",
        }
        env |= getattr(request.module, "MORE_SETTINGS", {})
        relay = [sys.executable, "-m", "flowgroup", "relay", "--tcp", f"0.0.0.0:{relay_port}"]
        stack.enter_context(running(relay, env, folder / "relay.log", lambda: _listens(relay_port)))
        home, pool = folder / "home", f"kube-{uuid.uuid4().hex[:6]}"
        home.mkdir(exist_ok=True)  # the relay has its spool there
        daemon = Daemon(pool, env, home)
        stack.callback(daemon.stop)
        daemon.start()
        api = stack.enter_context(httpx.Client(base_url=prefect_api, timeout=90, transport=Patient()))
        made = Stack(prefect_api, api, home, pool, None)  # type: ignore[arg-type]
        yield World(made, kubectl, store, daemon, relay_port, operator)


def _environment(url: str, folder: Path, ca: FakeCA) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
    own = {
        "PREFECT_API_URL": url,
        "FLOWGROUP_HOME": str(folder / "home"),
        "FLOWGROUP_BACKEND": "kubernetes",
        "FLOWGROUP_IDLE_TIMEOUT_S": "5",
        "FLOWGROUP_CLUSTER_TIMEOUT_S": str(CLUSTER_TIMEOUT_S),
        "FLOWGROUP_RELAY_CONTROL_KEY_FILE": str(folder / "control-key"),
        "FLOWGROUP_KUBERNETES_SIZES": str(folder / "sizes.json"),
        "FLOWGROUP_KUBERNETES_CA_FILE": str(ca.file),
    }
    for what in ("CERT", "KEY"):
        path = str(ca.folder / ("tls.crt" if what == "CERT" else "tls.key"))
        own |= {f"FLOWGROUP_KUBERNETES_TLS_{what}": path, f"FLOWGROUP_RELAY_TLS_{what}": path}
    return clean | own


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0


@pytest.fixture(scope="module")
def lab(world: World) -> str:
    """A deployment with one worker."""
    return world.deploy("lab.py:lab", "whole", "--workers", "1", "--worker-threads", "2", "--idle-timeout-s", "60")


def found(world: World, run: str) -> Any:
    return ast.literal_eval(world.stack.wait_log(run, "found ", begins=True)["message"].removeprefix("found "))


def test_a_flow_and_its_tasks_run_in_pods_and_again_in_the_same_cluster(world: World, lab: str) -> None:
    began = time.monotonic()
    first = world.run(lab, what="dask_itself")
    cold_s, began = time.monotonic() - began, time.monotonic()
    second = world.run(lab, what="dask_itself")
    print(f"from no cluster: {cold_s:.1f} s, warm: {time.monotonic() - began:.1f} s")
    assert (found(world, first), found(world, second)) == (42, 42)
    assert len(world.kubectl.names("daskclusters")) == 1


def test_a_new_daemon_finds_the_clusters_and_the_runs_of_the_former_one(world: World, lab: str) -> None:
    before = world.kubectl.names("pods")
    run = world.stack.start(lab, what="sleeps", with_={"seconds": 8})
    world.stack.wait(run, "Running", timeout_s=60)
    world.daemon.restart()
    assert world.stack.wait(run, timeout_s=90)["state_name"] == "Completed", world.stack.message(run)
    world.run(lab, what="dask_itself")
    assert world.kubectl.names("pods") == before


def test_only_the_driver_reaches_the_relay_and_nobody_another_cluster(world: World, lab: str) -> None:
    if not real.is_shared(real.kubeconfig()):
        pytest.skip("this cluster's network may not enforce NetworkPolicies")
    other = world.deploy("runners.py:bare", "other", "--workers", "1", "--idle-timeout-s", "60")
    world.run(other)
    services = [name for name in world.kubectl.names("services") if "bare" in name]
    address = world.kubectl.json("get", services[0])["spec"]["clusterIP"]
    store = world.store["AWS_ENDPOINT_URL"].removeprefix("http://")
    asked = [f"{HERE}:{world.relay_port}", store, f"{address}:8786"]
    run = world.run(lab, what="reaches", with_={"addresses": asked})
    assert found(world, run) == {"run": [True, True, False], "worker": [False, True, False]}


def test_tasks_that_ask_for_a_resource_are_on_the_workers_that_have_it(world: World, lab: str) -> None:
    groups = [{"name": "gpu", "count": 1, "size": "small", "dask_resources": {"GPU": 1}}]
    run = world.start(lab, {"worker_groups": groups}, what="on_resources", with_={"resources": {"GPU": 1}})
    assert world.stack.wait(run, timeout_s=180)["state_name"] == "Completed", world.stack.message(run)
    names = found(world, run)
    assert {"-gpu-worker-" in name for name in names["dask"] + names["prefect"]} == {True}, names


def test_a_size_that_no_node_has_and_one_that_there_is_not_are_said_in_the_runs_state(world: World, lab: str) -> None:
    unknown = world.start(lab, {"worker_size": "huge"}, what="dask_itself")
    assert world.stack.wait(unknown, timeout_s=60)["state_name"] == "Crashed"
    assert "worker_size is 'huge'" in world.stack.message(unknown)
    assert "there are: nowhere, small" in world.stack.message(unknown)
    waits = world.start(lab, {"worker_size": "nowhere"}, what="dask_itself")
    wait_for(lambda: "cannot be scheduled" in world.stack.message(waits), "it is said", CLUSTER_TIMEOUT_S + 60)
    assert "node" in world.stack.message(waits)
    world.stack.cancel(waits)


def test_idle_clusters_go_and_leave_nothing(world: World, lab: str) -> None:
    kinds = ("daskclusters", "pods", "secrets", "networkpolicies", "services", "deployments")
    wait_for(lambda: not any(map(world.kubectl.names, kinds)), "all idle clusters are gone", 180)
    assert world.kubectl.names("configmaps") == ["configmap/the-ca"]
