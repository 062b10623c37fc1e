"""Flows on a real Kubernetes, through all that is ours: daemon and relay on this machine, drivers and workers in pods."""

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.edge.kubernetes import real
from tests.edge.kubernetes.real import Kubectl, Operator
from tests.fakes.ca import FakeCA
from tests.real.stack import Patient, Stack, wait_for
from tests.servers import free_port, running, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.filterwarnings("default::ResourceWarning")]

HERE = os.environ.get("FLOWGROUP_E2E_HOST", "198.19.255.1")  # this machine, as pods reach it
SIZES = {"small": {"cpu": "100m", "memory": "400Mi"}, "nowhere": {"nodeSelector": {"pool": "nowhere"}}}


@dataclass
class World:
    stack: Stack
    kubectl: Kubectl
    store: dict[str, str]

    def deploy(self, flow: str, name: str, *more: str) -> str:
        return self.stack.deploy(flow, name, *more, store="s3://flowgroup/team", env=self.store)

    def run(self, deployment: str, **parameters: Any) -> str:
        run = self.stack.start(deployment, **parameters)
        assert self.stack.wait(run, timeout_s=180)["state_name"] == "Completed", self.stack.message(run)
        return run


@pytest.fixture(scope="module")
def world(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
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
        (folder / "sizes.json").write_text(json.dumps(SIZES))
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
            "FLOWGROUP_KUBERNETES_DRIVER_EGRESS": f"{HERE}/32:{store['AWS_ENDPOINT_URL'].rpartition(':')[2]}",
        }
        relay = [sys.executable, "-m", "flowgroup", "relay", "--tcp", f"0.0.0.0:{relay_port}"]
        stack.enter_context(running(relay, env, folder / "relay.log", lambda: _listens(relay_port)))
        home, pool = folder / "home", f"kube-{uuid.uuid4().hex[:6]}"
        home.mkdir()
        daemon = [sys.executable, "-m", "flowgroup", "start", "--pool", pool]
        ready = home / pool / "daemon.json"
        stack.enter_context(running(daemon, env, home / "daemon.log", ready.exists))
        api = stack.enter_context(httpx.Client(base_url=prefect_api, timeout=90, transport=Patient()))
        yield World(Stack(prefect_api, api, home, pool, None), kubectl, store)  # type: ignore[arg-type]


def _environment(url: str, folder: Path, ca: FakeCA) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_"))}
    own = {
        "PREFECT_API_URL": url,
        "FLOWGROUP_HOME": str(folder / "home"),
        "FLOWGROUP_BACKEND": "kubernetes",
        "FLOWGROUP_IDLE_TIMEOUT_S": "5",
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


def test_a_flow_and_its_tasks_run_in_pods_and_the_idle_cluster_goes(world: World) -> None:
    deployment = world.deploy(
        "lab.py:lab", "whole", "--workers", "1", "--worker-threads", "2", "--idle-timeout-s", "20"
    )
    began = time.monotonic()
    first = world.run(deployment, what="dask_itself")
    cold_s, began = time.monotonic() - began, time.monotonic()
    world.run(deployment, what="dask_itself")
    print(f"from no cluster: {cold_s:.1f} s, warm: {time.monotonic() - began:.1f} s")
    world.stack.wait_log(first, "found 42")
    assert len(world.kubectl.names("daskclusters")) == 1
    wait_for(lambda: not world.kubectl.names("daskclusters") and not world.kubectl.names("pods"), "it is idle", 90)
