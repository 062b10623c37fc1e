"""`deploy/up.sh` and `make e2e` where kind makes the cluster: with a pretended kind, docker, kubectl and helm."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PRETENDED = r"""#!/usr/bin/env bash
# Notes how it was called, and knows which kind clusters there are.
name=$(basename "$0")
echo "$name $*" >>"$CALLS"
case "$name $*" in
	"kind get clusters") cat "$CLUSTERS" ;;
	"kind create cluster --name "*) echo "$4" >>"$CLUSTERS" ;;
	"kind delete cluster --name "*) sed -i "/^$4\$/d" "$CLUSTERS" ;;
	"docker network inspect kind"*) printf 'fc00:f853::1\n172.18.0.1\n' ;;
	*"apply -f -") cat >/dev/null ;;
esac
"""


class Machine:
    """A copy of the scripts on a machine without ../shared; `calls` is what was called there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        shutil.copytree(_ROOT / "deploy", self.root / "deploy")
        (self.root / "helm").symlink_to(_ROOT / "helm")
        self.tools = folder / "tools"
        self.tools.mkdir()
        for tool in ("kind", "docker", "kubectl", "helm"):
            (self.tools / tool).write_text(_PRETENDED)
            (self.tools / tool).chmod(0o755)
        self._calls, self._clusters = folder / "calls", folder / "clusters"
        self._clusters.write_text("")
        said = ("KUBECONFIG", "KIND", "CLUSTER", "REGISTRY", "TAG", "BUILD", "S3_BINARY", "NAMESPACES", "BASE")
        self._env = {name: value for name, value in os.environ.items() if name not in said}
        self._env |= {"CALLS": str(self._calls), "CLUSTERS": str(self._clusters), "PATH": f"{self.tools}:/usr/bin:/bin"}
        self._env |= {"OPERATOR_CHART": "none", "EXAMPLE": "none"}

    def run(self, *command: str, **env: str) -> str:
        """What the command prints; `calls` are of this command alone."""
        self._calls.write_text("")
        done = subprocess.run(
            command, cwd=self.root, env={**self._env, **env}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()

    @property
    def clusters(self) -> list[str]:
        return self._clusters.read_text().split()

    def called(self, start: str) -> list[str]:
        return [call.removeprefix(start).strip() for call in self.calls if call.startswith(start)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_kubeconfig_everything_comes_up_on_a_kind_cluster_that_is_made(machine: Machine) -> None:
    machine.run("deploy/up.sh")
    assert machine.called("kind create cluster") == ["--name flowgroup --config deploy/kind.yaml"]
    images = [f"--name flowgroup flowgroup-{name}:dev" for name in ("agent", "runtime", "operator")]
    assert machine.called("kind load docker-image") == images
    assert len(machine.called("helm upgrade")) == 1
    machine.run("deploy/up.sh", "down")
    assert machine.clusters == []


def test_a_kind_cluster_that_is_there_is_used_and_made_the_current_one(machine: Machine) -> None:
    machine.run("deploy/up.sh", "images")
    machine.run("deploy/up.sh", KIND_OPTIONS="--image kindest/node:v1")
    assert machine.called("kind create") == []
    assert machine.called("kind export kubeconfig") == ["--name flowgroup"]


def test_a_kubeconfig_of_kinds_is_said_by_the_clusters_name(machine: Machine) -> None:
    of_kind = {"KUBECONFIG": str(machine.root / "config"), "KIND": "mine"}
    machine.run("deploy/up.sh", **of_kind)
    assert machine.clusters == ["mine"]
    assert all(call.startswith("--name mine ") for call in machine.called("kind load docker-image"))
    machine.run("deploy/up.sh", "down", **of_kind)
    assert machine.clusters == ["mine"]  # it may be used for more than this


def test_other_clusters_are_left_alone_by_kind(machine: Machine) -> None:
    machine.run("deploy/up.sh", KUBECONFIG=str(machine.root / "config"), BUILD="no")
    machine.run("deploy/up.sh", "down", KUBECONFIG=str(machine.root / "config"))
    assert machine.called("kind") == []


_SAYS = (
    "sh",
    "-c",
    "echo $FLOWGROUP_E2E_TAG $FLOWGROUP_E2E_HOST $FLOWGROUP_E2E_IMAGE; cp $CLUSTERS during; test -z $KIND",
)


def test_e2e_makes_a_kind_cluster_with_images_and_takes_it_away(machine: Machine) -> None:
    said = machine.run("deploy/e2e.sh", *_SAYS)
    assert said.splitlines()[0] == "e2e 172.18.0.1 docker.io/library/flowgroup-runtime:e2e"
    assert (machine.root / "during").read_text().split() == ["flowgroup-e2e"]
    assert "--name flowgroup-e2e flowgroup-runtime:e2e" in machine.called("kind load docker-image")
    assert machine.clusters == []


def test_the_cluster_of_an_e2e_that_fails_goes_too(machine: Machine) -> None:
    with pytest.raises(AssertionError):
        machine.run("deploy/e2e.sh", "false")
    assert machine.called("kind create") != []
    assert machine.clusters == []


def test_e2e_takes_a_cluster_that_is_there(machine: Machine) -> None:
    assert machine.run("deploy/e2e.sh", "sh", "-c", "echo $KUBECONFIG", KUBECONFIG="/a/config") == "/a/config\n"
    shared = machine.root.parent / "shared" / "cluster" / "cluster"
    shared.parent.mkdir(parents=True)
    shared.write_text("")
    shared.chmod(0o755)
    machine.run("deploy/e2e.sh", "true")
    assert machine.called("kind") == []


def test_e2e_without_any_cluster_and_without_kind_leaves_the_words_to_the_tests(machine: Machine) -> None:
    (machine.tools / "kind").unlink()
    assert machine.run("deploy/e2e.sh", "echo", "skipped") == "skipped\n"
