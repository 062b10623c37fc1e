"""Upgrades with runs under way: the daemon's and the relays' pods are replaced, and no run is lost, doubled or mute."""

import base64
import itertools
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from flowgroup.dev.patient import Patient
from flowgroup.model.ids import FIRST_RELAY, FlowId, RelayName
from flowgroup.model.spec import ClusterSpec, through
from tests.e2e.conftest import Installed
from tests.edge.kubernetes.real import is_shared
from tests.real.stack import Stack, wait_for

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
def store(installed: Installed) -> dict[str, str]:
    """What an author on this machine reaches the installed object store with."""
    secret = installed.main.json("get", "secret", "store")["data"]
    return {name: base64.b64decode(value).decode() for name, value in secret.items()} | {
        "AWS_ENDPOINT_URL": f"http://{_address(installed, 's3', 's3')}:7070",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture(scope="module")
def deployment(stack: Stack, store: dict[str, str]) -> str:
    return _deployed(stack, store, _FLOW, "ledger")


def _deployed(stack: Stack, store: dict[str, str], flow: Path, name: str) -> str:
    """A flow with tasks on Dask, whose cluster is there and stays."""
    more = ("--workers", "1", "--idle-timeout-s", "600")
    made = stack.deploy(f"{flow}:ledger", name, *more, store="s3://flowgroup", env=store)
    first = stack.start(made, beats=1, every_s=0)
    assert stack.wait(first, timeout_s=300)["state_name"] == "Completed", stack.message(first)
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


def _is_whole(stack: Stack, run: str, beats: int = _BEATS) -> None:
    """It has completed at its first try, and every step and every task is in its log, once."""
    ended = stack.wait(run, timeout_s=beats * _EVERY_S + 120)
    assert ended["state_name"] == "Completed", stack.message(run)
    assert ended["run_count"] == 1
    assert stack.states(run).count("Running") == 1
    wanted = sorted(f"{what} {number} of the ledger" for number in range(beats) for what in ("step", "task"))
    # A new relay looks for a minute for the lines of a call that was cut off.
    wait_for(lambda: len(_said(stack, run)) >= len(wanted), "its log is whole", 100)
    assert _said(stack, run) == wanted


def _said(stack: Stack, run: str) -> list[str]:
    lines = [re.findall(r"(?:step|task) \d+ of the ledger", entry["message"]) for entry in stack.logs(run)]
    return sorted(line for found in lines for line in found)


@contextmanager
def _volume(installed: Installed, folder: Path, claim: str) -> Iterator[None]:
    """A volume that this claim finds: this cluster makes none."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    name = f"{installed.main.namespace}-{claim}"
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(folder)},
        "claimRef": {"namespace": installed.main.namespace, "name": claim},
    }
    made = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    installed.main("apply", "-f", "-", stdin=yaml.safe_dump(made))
    yield
    installed.main("delete", "pv", name, "--wait=false")


@pytest.fixture
def volume(installed: Installed, tmp_path: Path) -> Iterator[None]:
    with _volume(installed, tmp_path, f"{installed.main.namespace}-daemon-default"):
        yield


@pytest.fixture
def two_relays(installed: Installed, tmp_path: Path) -> Iterator[tuple[RelayName, ...]]:
    """Two relays with a volume each, by the names that specs have for them; and room for two clusters on a small node."""
    name = installed.main.namespace
    installed.jobs("delete", "daskclusters", "--all", "--wait=false")
    first, second = (f"home-{name}-relay-{number}" for number in range(2))
    with _volume(installed, tmp_path / "0", first), _volume(installed, tmp_path / "1", second):
        installed.main("delete", "statefulset", f"{name}-relay")  # whether it has volumes is one of what never changes
        values = ("--set", "relay.replicas=2,relay.persistence.type=claim")
        installed.helm("upgrade", name, "helm/flowgroup", "--reuse-values", "--wait", "--timeout", "3m", *values)
        yield (FIRST_RELAY, RelayName(f"https://{name}-relay-1.{name}.svc:4280"))


def _renamed(stack: Stack, folder: Path, relay: RelayName, relays: tuple[RelayName, ...]) -> Path:
    """The flow under a name with which its group is on that relay, in a file called so."""
    for number in itertools.count():
        name = f"ledger_{number}"
        flow = FlowId(stack.api.post("/flows/", json={"name": name}).json()["id"])
        spec = ClusterSpec(flow_id=flow, flow_name=name, isolation=stack.pool)
        if through(spec, relays).relay == relay:
            file = folder / f"{name}.py"
            file.write_text(_FLOW.read_text().replace("@flow\n", f'@flow(name="{name}")\n'))
            return file
    raise AssertionError("there is always another number")


def _relays_in_use(installed: Installed) -> set[str]:
    """What drivers were told to dial."""
    pods = installed.jobs.json("get", "pods", "-l", "flowgroup.dev/role=driver")["items"]
    commands = [pod["spec"]["containers"][0]["command"] for pod in pods]
    return {command[command.index("--relay") + 1] for command in commands}


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


def test_a_rolling_restart_with_fifty_runs_under_way_changes_no_state_and_touches_no_object(
    installed: Installed, stack: Stack, deployment: str
) -> None:
    runs = [stack.start(deployment, beats=2, every_s=75.0) for _ in range(50)]
    for run in runs:
        stack.wait(run, "Running", timeout_s=200)
    before = [stack.history(run) for run in runs], _objects(installed)
    daemons = _uids(installed, "daemon")
    installed.main("rollout", "restart", "deployment", "-l", "app.kubernetes.io/component=daemon")
    wait_for(lambda: not daemons & _uids(installed, "daemon"), "the former daemon is gone", 120)
    wait_for(lambda: _leads(installed), "the new daemon has looked for the first time", 120)
    assert ([stack.history(run) for run in runs], _objects(installed)) == before
    for run in runs:
        _is_whole(stack, run, 2)


def _objects(installed: Installed) -> dict[str, object]:
    """What makes the clusters, each as it is; of DaskClusters, whose daemon notes on them that it lives, what they shall be."""
    kinds = "secrets,configmaps,networkpolicies,services,deployments,pods,daskworkergroups"
    there = installed.jobs.json("get", kinds, "-l", "app.kubernetes.io/managed-by=flowgroup")["items"]
    found = {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"] for one in there}
    for one in installed.jobs.json("get", "daskclusters")["items"]:
        found[one["metadata"]["name"]] = (one["metadata"]["uid"], one["spec"])
    return found


def _leads(installed: Installed) -> bool:
    """Its readiness says that it has looked for runs once."""
    pods = installed.main.json("get", "pods", "-l", "app.kubernetes.io/component=daemon")["items"]
    ready = [one["status"] for pod in pods for one in pod["status"]["conditions"] if one["type"] == "Ready"]
    return bool(ready) and set(ready) == {"True"}


def test_a_rolling_restart_of_two_relays_under_load_loses_no_line(
    installed: Installed, stack: Stack, store: dict[str, str], two_relays: tuple[RelayName, ...], tmp_path: Path
) -> None:
    files = [_renamed(stack, tmp_path, relay, two_relays) for relay in two_relays]
    made = [_deployed(stack, store, file, file.stem) for file in files]
    name, beats = installed.main.namespace, 90
    assert {f"https://{name}-relay{more}.{name}.svc:4280" for more in ("", "-1")} <= _relays_in_use(installed)
    runs = [stack.start(one, beats=beats, every_s=_EVERY_S) for one in made]
    for run in runs:
        stack.wait(run, "Running", timeout_s=60)
    before = _uids(installed, "relay")
    assert len(before) == 2
    installed.main("rollout", "restart", f"statefulset/{name}-relay")
    installed.main("rollout", "status", f"statefulset/{name}-relay", "--timeout=120s")
    assert not before & _uids(installed, "relay")
    assert {stack.run(run)["state_name"] for run in runs} == {"Running"}, "the restart took longer than the runs"
    for run in runs:
        _is_whole(stack, run, beats)
