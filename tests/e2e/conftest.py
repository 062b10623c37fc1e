"""The chart, installed once for all tests of this folder by `deploy/up.sh`, as a user would."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart.conftest import ROOT, helm_binary
from tests.edge.kubernetes.real import SHARED, Kubectl, is_shared, kubeconfig

_UNPACKED = Path("/var/lib/testcluster/bin")
_OPTIONS = "--set daemon.persistence.type=emptyDir --set relay.persistence.type=emptyDir"


@dataclass(frozen=True)
class Installed:
    """What `deploy/up.sh` has made; `said` is what it and the example flow said."""

    config: str
    before: str
    said: str

    @property
    def main(self) -> Kubectl:
        return Kubectl(self.config, f"{self.before}flowgroup")

    @property
    def jobs(self) -> Kubectl:
        return Kubectl(self.config, f"{self.before}flowgroup-jobs")

    def helm(self, *args: str) -> str:
        binary = helm_binary()
        assert binary is not None
        done = subprocess.run(
            [binary, "--kubeconfig", self.config, "-n", self.main.namespace, *args],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    """`FLOWGROUP_E2E_TAG` names images that are on the nodes; without it they are built first, which takes minutes."""
    config = kubeconfig()
    if helm_binary() is None:
        pytest.skip("helm is not there: neither in PATH nor unpacked by the test cluster")
    before = f"e2e-{uuid.uuid4().hex[:6]}-"
    env = {**os.environ, "KUBECONFIG": config, "NAMESPACES": before, "HELM_OPTIONS": _OPTIONS}
    env |= {"PATH": f"{env['PATH']}:{_UNPACKED}", "TAG": os.environ.get("FLOWGROUP_E2E_TAG", "dev")}
    if "FLOWGROUP_E2E_TAG" in os.environ:
        env |= {"BUILD": "no"}
    if is_shared(config):
        env |= {"CLUSTER": str(SHARED), "S3_BINARY": str(_UNPACKED / "versitygw")}
    began = time.monotonic()
    try:
        done = subprocess.run(["deploy/up.sh"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        print(f"deploy/up.sh took {time.monotonic() - began:.0f} s:\n{done.stderr}")
        yield Installed(config, before, done.stdout + done.stderr)
    finally:
        subprocess.run(["deploy/up.sh", "down"], cwd=ROOT, env=env, capture_output=True, check=False)
