"""The chart, rendered by helm: from PATH, or where the test cluster has unpacked it."""

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "flowgroup"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
_UNPACKED = Path("/var/lib/testcluster/bin/helm")
_AS_OF = ("--kube-version", "1.34.0")

Object = dict[str, Any]
Render = Callable[..., list[Object]]


def helm_binary() -> str | None:
    return shutil.which("helm") or (str(_UNPACKED) if _UNPACKED.exists() else None)


@cache
def helm(*args: str) -> "subprocess.CompletedProcess[str]":
    """One call of helm; the same call is made once."""
    binary = helm_binary()
    if binary is None:
        pytest.skip("helm is not there: neither in PATH nor unpacked by the test cluster")
    return subprocess.run([binary, *args], capture_output=True, text=True, cwd=ROOT, check=False)


def rendered(*args: str) -> "subprocess.CompletedProcess[str]":
    return helm("template", "fg", str(CHART), "--namespace", "fg", *_AS_OF, *args)


def objects(*args: str) -> list[Object]:
    """What the chart renders to with these arguments of helm. Fails with what helm says."""
    done = rendered(*args)
    assert done.returncode == 0, done.stderr
    return [made for made in yaml.safe_load_all(done.stdout) if made]


def pod_specs(made: list[Object]) -> list[tuple[str, Object]]:
    """Every pod's spec, with the name of what makes it."""
    found = []
    for one in made:
        spec = one.get("spec") or {}
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            found.append((name, spec))
        elif one["kind"] == "CronJob":
            found.append((name, spec["jobTemplate"]["spec"]["template"]["spec"]))
        elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
            found.append((name, spec["template"]["spec"]))
    return found


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.fixture(params=CI_VALUES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def ci_values(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def made(ci_values: Path) -> list[Object]:
    return objects("-f", str(ci_values))
