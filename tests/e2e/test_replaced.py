"""Upgrades with runs under way: the daemon's and the relay's pods are replaced, and no run is lost, doubled or mute."""

import base64
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.e2e.conftest import Installed
from tests.edge.kubernetes.real import is_shared
from tests.real.stack import Patient, Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
_FLOW = Path(__file__).parent / "flows" / "ledger.py"
_BEATS, _EVERY_S = 30, 1.0


@pytest.fixture(scope="module")
def stack(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The installed Prefect server, as an author on this machine sees it."""
    if not is_shared(installed.config):
        pytest.skip("this machine may not reach Services by their addresses")
    url = f"http://{_address(installed, 'prefect', 'prefect')}:4200/api"
    with httpx.Client(base_url=url, timeout=90, transport=Patient(), trust_env=False) as api:
        yield Stack(url, api, tmp_path_factory.mktemp("author"), "default", None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def deployment(installed: Installed, stack: Stack) -> str:
    """A flow with tasks on Dask, whose cluster is there and stays."""
    secret = installed.main.json("get", "secret", "store")["data"]
    store = {name: base64.b64decode(value).decode() for name, value in secret.items()} | {
        "AWS_ENDPOINT_URL": f"http://{_address(installed, 's3', 's3')}:7070",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    more = ("--workers", "1", "--idle-timeout-s", "600")
    made = stack.deploy(f"{_FLOW}:ledger", "ledger", *more, store="s3://flowgroup", env=store)
    first = stack.start(made, beats=1, every_s=0)
    assert stack.wait(first, timeout_s=180)["state_name"] == "Completed", stack.message(first)
    return made


def _address(installed: Installed, namespace: str, service: str) -> str:
    found = installed.main.json("-n", f"{installed.before}{namespace}", "get", "service", service)
    return str(found["spec"]["clusterIP"])


def _uids(installed: Installed, component: str) -> set[str]:
    pods = installed.main.json("get", "pods", "-l", f"app.kubernetes.io/component={component}")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def _upgrade(installed: Installed, *more: str) -> None:
    """New pods of the daemon and the relay; returns when both are ready."""
    word = uuid.uuid4().hex
    again = ("--set", f"daemon.podAnnotations.again={word}", "--set", f"relay.podAnnotations.again={word}")
    before = _uids(installed, "daemon"), _uids(installed, "relay")
    arguments = ("--reuse-values", "--wait", "--timeout", "3m", *again, *more)
    installed.helm("upgrade", installed.main.namespace, "helm/flowgroup", *arguments)
    assert not before[0] & _uids(installed, "daemon")
    assert not before[1] & _uids(installed, "relay")


def _is_whole(stack: Stack, run: str) -> None:
    """It has completed at its first try, and every step and every task is in its log, once."""
    ended = stack.wait(run, timeout_s=_BEATS * _EVERY_S + 120)
    assert ended["state_name"] == "Completed", stack.message(run)
    assert ended["run_count"] == 1
    assert stack.states(run).count("Running") == 1
    wanted = sorted(f"{what} {number} of the ledger" for number in range(_BEATS) for what in ("step", "task"))
    wait_for(lambda: len(_said(stack, run)) >= len(wanted), "its log is whole", 60)
    assert _said(stack, run) == wanted


def _said(stack: Stack, run: str) -> list[str]:
    lines = [re.findall(r"(?:step|task) \d+ of the ledger", entry["message"]) for entry in stack.logs(run)]
    return sorted(line for found in lines for line in found)


@pytest.fixture
def volume(installed: Installed, tmp_path: Path) -> Iterator[None]:
    """A volume that a claim finds: this cluster makes none."""
    tmp_path.chmod(0o777)
    name = f"{installed.main.namespace}-home"
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(tmp_path)},
        "claimRef": {"namespace": installed.main.namespace, "name": f"{installed.main.namespace}-daemon-default"},
    }
    made = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    installed.main("apply", "-f", "-", stdin=yaml.safe_dump(made))
    yield
    installed.main("delete", "pv", name, "--wait=false")


def test_an_upgrade_without_a_volume_loses_no_run_and_no_line(
    installed: Installed, stack: Stack, deployment: str
) -> None:
    run = stack.start(deployment, beats=_BEATS, every_s=_EVERY_S)
    stack.wait(run, "Running", timeout_s=60)
    _upgrade(installed)
    meanwhile = stack.start(deployment, beats=1, every_s=0)
    assert stack.run(run)["state_name"] == "Running", "the upgrade took longer than the run"
    assert stack.wait(meanwhile, timeout_s=60)["state_name"] == "Completed", stack.message(meanwhile)
    _is_whole(stack, run)
    assert "attempts_remembered" in installed.main("logs", "-l", "app.kubernetes.io/component=daemon", "--tail=-1")


@pytest.mark.usefixtures("volume")
def test_upgrades_to_a_volume_and_with_it_lose_no_run_and_no_line(
    installed: Installed, stack: Stack, deployment: str
) -> None:
    run = stack.start(deployment, beats=_BEATS, every_s=_EVERY_S)
    stack.wait(run, "Running", timeout_s=60)
    _upgrade(installed, "--set", "daemon.persistence.type=claim")
    second = stack.start(deployment, beats=_BEATS, every_s=_EVERY_S)
    stack.wait(second, "Running", timeout_s=60)
    _upgrade(installed)
    assert stack.run(second)["state_name"] == "Running", "the upgrade took longer than the run"
    _is_whole(stack, run)
    _is_whole(stack, second)
    said = installed.main("logs", "-l", "app.kubernetes.io/component=daemon", "--tail=-1")
    assert "run_resumed" in said
    assert "attempts_remembered" not in said
