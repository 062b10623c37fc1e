"""What the chart renders to, shown to a real API server: every field is one that it knows, and is taken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.conftest import CI_VALUES, ROOT, Object, objects
from tests.edge.kubernetes import real
from tests.edge.kubernetes.real import Kubectl

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
_OF_OTHERS = ("cert-manager.io/", "monitoring.coreos.com/")  # their types are not there to ask


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    with real.namespace(real.kubeconfig()) as made:
        yield made


def _accepted(kubectl: Kubectl, made: list[Object]) -> None:
    """All in one namespace that is there, for nothing is really made, the chart's own namespaces included."""
    shown = [one for one in made if not one["apiVersion"].startswith(_OF_OTHERS)]
    for one in shown:
        if "namespace" in one["metadata"]:
            one["metadata"]["namespace"] = kubectl.namespace
    named = {(one["kind"], one["metadata"]["name"]): one for one in shown}
    how = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    taken = kubectl(*how, stdin=yaml.safe_dump_all(named.values())).splitlines()
    assert len(taken) == len(named)
    assert len(taken) > 10


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name)
def test_an_api_server_takes_what_the_chart_renders_to(kubectl: Kubectl, values: Path) -> None:
    _accepted(kubectl, objects("-f", str(values)))


def test_an_api_server_takes_the_plain_manifests(kubectl: Kubectl) -> None:
    _accepted(kubectl, [one for one in yaml.safe_load_all((ROOT / "deploy" / "flowgroup.yaml").read_text()) if one])
