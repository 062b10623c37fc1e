"""What the chart refuses, and what is made from its values and must not be stale."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import CHART, CI_VALUES, ROOT, helm_binary, rendered

_MINIMAL = str(CHART / "ci" / "minimal-values.yaml")
# Kubernetes' own types and maps of names: Kubernetes says itself what it does not know of these.
_OPEN = (
    "affinity",
    "nodeSelector",
    "podLabels",
    "podAnnotations",
    "annotations",
    "labels",
    "namespaceLabels",
    "commonLabels",
    "commonAnnotations",
    "podSecurityContext",
    "securityContext",
    "requests",
    "limits",
    "quota",
)


def _closed(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all mappings that are the chart's own."""
    yield path
    for name, inner in values.items():
        if isinstance(inner, dict) and name not in _OPEN:
            yield from _closed(inner, (*path, name))


_VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_an_unknown_value_is_refused_at_every_level(tmp_path: Path) -> None:
    paths = [path for path in _closed(_VALUES) if path not in {("sizes",)}]
    assert len(paths) > 30
    wrong: dict[str, Any] = {}
    for path in paths:
        node = wrong
        for name in path:
            node = node.setdefault(name, {})
        node["surprise"] = 1
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(wrong))
    done = rendered("-f", _MINIMAL, "-f", str(tmp_path / "values.yaml"))
    assert done.returncode != 0
    for path in paths:
        where = "".join(f"/{name}" for name in path)
        assert f"at '{where}': additional properties 'surprise' not allowed" in done.stderr, where


@pytest.mark.parametrize(
    "given",
    [
        "prefect.apiKey=pnu_0123456789",
        "prefect.auth.apiKey=pnu_0123456789",
        "prefect.auth.apiKeyKey=pnu_0123456789",
        "prefect.auth.existingSecret=PNU_0123456789",
        "prefect.apiUrl=http://user:password@prefect/api",
        "daemon.extraEnv[0].name=PREFECT_API_KEY,daemon.extraEnv[0].value=x",
        "relay.extraEnv[0].name=PREFECT_API_AUTH_STRING,relay.extraEnv[0].value=x",
        "pools[0].name=a,pools[0].extraEnv[0].name=AWS_SECRET_ACCESS_KEY,pools[0].extraEnv[0].value=x",
        "store.env[0].name=AWS_SECRET_ACCESS_KEY,store.env[0].value=x",
        "config.prefect.api_key=x",
    ],
)
def test_a_token_is_never_a_value(given: str) -> None:
    assert rendered("-f", _MINIMAL, "--set", given).returncode != 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("prefect.apiUrl=", "/prefect/apiUrl"),
        ("pools=null", "pools"),
        ("pools[0].name=a,pools[0].namespace=fg", "the release's own namespace"),
        ("pools[0].name=a,pools[1].name=a", "named twice"),
        ("pools[0].name=a/b", "/pools/0/name"),
        ("certificates.mode=existing", "certificates.existing."),
        ("certificates.mode=off", "/certificates/mode"),
        ("certificates.mode=certManager", "issuerRef"),
        ("relay.replicas=0", "/relay/replicas"),
        ("relay.replicas=2,relay.draining=2", "relay.draining: of 2 relays 2"),
        ("daemon.persistence.type=none", "/daemon/persistence/type"),
        ("sizes.big.cpus=4", "'cpus' not allowed"),
        ("jobs.egress={everything}", "/jobs/egress/0"),
    ],
)
def test_what_is_wrong_is_named(given: str, said: str) -> None:
    done = rendered("-f", _MINIMAL, "--set", given)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_schema_closes_every_mapping_of_its_own() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for where, node in _mappings(schema, "#"):
        is_open = node == {"type": "object"} or "additionalProperties" in node or "propertyNames" in node
        assert is_open or where == "#/properties/global", where
        if "properties" in node:
            assert node["additionalProperties"] is False, where


def _mappings(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield where, node
        for name, inner in node.items():
            if name not in ("if", "then"):
                yield from _mappings(inner, f"{where}/{name}")
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from _mappings(inner, f"{where}/{number}")


def test_every_default_stands_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(_VALUES)


def test_each_values_file_is_used_and_differs(ci_values: Path) -> None:
    assert yaml.safe_load(ci_values.read_text())["prefect"]["apiUrl"]
    assert len({copy.copy(path).read_text() for path in CI_VALUES}) == len(CI_VALUES)


def test_the_readme_is_made_from_the_values() -> None:
    made = subprocess.run(
        [sys.executable, "helm/readme.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert made == (CHART / "README.md").read_text(), "stale: run `make chart`"


_MONITORING = ("-f", "deploy/monitoring-values.yaml", "--show-only", "templates/monitoring.yaml")


@pytest.mark.parametrize(("file", "options"), [("flowgroup.yaml", ()), ("monitoring.yaml", _MONITORING)])
def test_the_plain_manifests_are_the_charts(file: str, options: tuple[str, ...]) -> None:
    binary = helm_binary()
    if binary is None:
        pytest.skip("helm is not there: neither in PATH nor unpacked by the test cluster")
    made = subprocess.run(
        ["deploy/render.sh", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"HELM": binary, "PATH": "/usr/bin:/bin"},
    ).stdout
    assert made == (ROOT / "deploy" / file).read_text(), "stale: run `make chart`"
