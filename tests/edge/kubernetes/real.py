"""A real Kubernetes cluster for tests: namespaces of their own, and the Dask operator as a process of this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[4] / "shared" / "cluster" / "cluster"
_CRDS = "operator/deployment/helm/dask-kubernetes-operator/crds"
IMAGE = os.environ.get("FLOWGROUP_E2E_IMAGE", "docker.io/library/flowgroup-runtime:dev")


def kubeconfig() -> str:
    """The path of a usable kubeconfig; skips the test where there is none."""
    if said := os.environ.get("KUBECONFIG"):
        return said
    if not SHARED.exists():
        pytest.skip("no Kubernetes: KUBECONFIG is not set, there is no ../shared/cluster, and `make e2e` found no kind")
    there = _shared()
    if _answers(there):  # to bring up one that is up makes its kube-proxy end, for its configuration is written anew
        return there
    made = subprocess.run([str(SHARED), "up"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"../shared/cluster does not start: {made.stderr[-300:]}")
    return made.stdout.split()[-1]


def is_shared(config: str) -> bool:
    """Is it the cluster in ../shared, which builds images, enforces NetworkPolicies and has pretended GPUs and nodes?"""
    return SHARED.exists() and Path(config).resolve() == Path(_shared()).resolve()


def _shared() -> str:
    return subprocess.run([str(SHARED), "kubeconfig"], capture_output=True, text=True, check=False).stdout.strip()


def _answers(config: str) -> bool:
    asked = ["kubectl", "--kubeconfig", config, "get", "--raw", "/readyz", "--request-timeout=5s"]
    return bool(config) and subprocess.run(asked, capture_output=True, check=False).returncode == 0


class Kubectl:
    """`kubectl` in one namespace."""

    def __init__(self, config: str, namespace: str = "default") -> None:
        self.config = config
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", self.config, "-n", self.namespace, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def names(self, kind: str) -> list[str]:
        """What is left of a kind, but for what every namespace has."""
        found = self("get", kind, "-o", "name").split()
        return [name for name in found if not name.endswith(("/kube-root-ca.crt", "/default"))]


@contextlib.contextmanager
def namespace(config: str) -> Iterator[Kubectl]:
    """A namespace with Pod Security `restricted`, which goes with all that is in it."""
    name = f"kube-{uuid.uuid4().hex[:8]}"
    kubectl = Kubectl(config, name)
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    try:
        yield kubectl
    finally:
        with contextlib.suppress(AssertionError):  # it has just gone by itself, or nobody has made that type yet
            for cluster in kubectl.names("daskclusters"):
                kubectl("patch", cluster, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        kubectl("delete", "namespace", name, "--wait=false")


def install_operators_types(kubectl: Kubectl) -> None:
    """The operator's custom resource definitions. Too large for a client-side apply."""
    package = find_spec("dask_kubernetes")
    assert package is not None
    assert package.origin is not None
    crds = Path(package.origin).parent / _CRDS
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crds))
    for plural in ("daskclusters", "daskworkergroups", "daskjobs", "daskautoscalers"):
        _until_served(kubectl, plural)


def _until_served(kubectl: Kubectl, plural: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            kubectl("get", plural)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Operator:
    """
    The Dask operator for one namespace, from its own package. It can be ended and started again.

    Where one serves the whole cluster already there is no other (`is_foreign`): two would make everything twice.
    """

    def __init__(self, kubectl: Kubectl, log: Path) -> None:
        there = kubectl.json("get", "pods", "-A", "-l", "app.kubernetes.io/name=dask-kubernetes-operator")["items"]
        told = [" ".join(pod["spec"]["containers"][0].get("args") or ()) for pod in there]
        self.is_foreign = any("--namespace" not in arguments for arguments in told)
        self._kubectl = kubectl
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.is_foreign:
            return
        module = ["-m", "kopf", "run", "-m", "dask_kubernetes.operator.controller", "--standalone"]
        before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *module, "--namespace", self._kubectl.namespace],
                env={**os.environ, "KUBECONFIG": self._kubectl.config},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while b"startup" not in self._log.read_bytes()[before:]:
            assert self._process.poll() is None, f"the operator ended: {self._log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the operator does not start: {self._log.read_text()[-2000:]}"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
