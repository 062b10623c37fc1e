"""The exact environment on a real Kubernetes: what pods refer to, what runs are told, and what is said when it is not there."""

import base64
import contextlib
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowgroup.model.causes import code_of
from tests.edge.kubernetes import real
from tests.edge.kubernetes.test_whole import World, found, world

__all__ = ["world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.filterwarnings("default::ResourceWarning")]

MORE_SETTINGS = {"FLOWGROUP_KUBERNETES_SERVICE_ACCOUNTS": "etl, deployer:token"}
SAID_WITHIN_S = 60
WORD = f"hush-{uuid.uuid4().hex}"
SCRIPT = """
echo "installing on $(hostname)"
place=$(python -c 'import site; print(site.getusersitepackages())')
mkdir -p "$place" && echo 'X = 1' >"$place/installed_by_script.py"
echo "the word has ${#DB_PASSWORD} letters" >&2
"""


@pytest.fixture(scope="module")
def lab(world: World) -> str:
    return world.deploy("lab.py:lab", "environment", "--workers", "1", "--idle-timeout-s", "1")


@pytest.fixture(scope="module")
def volume(world: World) -> Iterator[str]:
    """A claim of a volume with the file `hello`; there is no storage class on every cluster."""
    name = f"flowgroup-{uuid.uuid4().hex[:8]}"
    shared = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteMany"], "storageClassName": name}
    here = {"hostPath": {"path": f"/tmp/{name}", "type": "DirectoryOrCreate"}}
    _apply(world, "v1", "PersistentVolume", name, spec={**shared, **here})
    claim = {key: shared[key] for key in ("accessModes", "storageClassName")}
    _apply(
        world, "v1", "PersistentVolumeClaim", "shared", spec={**claim, "resources": {"requests": {"storage": "1Mi"}}}
    )
    yield "shared"
    world.kubectl("delete", "pvc", "shared", "--wait=false")
    world.kubectl("delete", "pv", name, "--wait=false")


def _apply(world: World, version: str, kind: str, name: str, **more: Any) -> None:
    import json

    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}
    world.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def secret(world: World, name: str, **values: str) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    _apply(world, "v1", "Secret", name, data=data)


def block(world: World, name: str, value: str) -> str:
    """A Secret block of Prefect's; its id."""
    api = world.stack.api
    kind = api.get("/block_types/slug/secret").json()["id"]
    schemas = api.post("/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [kind]}}}).json()
    body = {"name": name, "data": {"value": value}, "block_type_id": kind, "block_schema_id": schemas[0]["id"]}
    answer = api.post("/block_documents/", json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def crashed(world: World, runs: dict[str, str]) -> dict[str, str]:
    """The messages of runs that cannot start, each said in time."""
    began = time.monotonic()
    for run in runs.values():
        assert world.stack.wait(run, timeout_s=2 * SAID_WITHIN_S)["state_name"] == "Crashed"
    print(f"{sorted(runs)}: said after {time.monotonic() - began:.0f} s")
    assert time.monotonic() - began < SAID_WITHIN_S
    return {name: world.stack.message(run) for name, run in runs.items()}


def test_what_is_not_there_is_said_by_name_in_time(world: World, lab: str) -> None:
    secret(world, "half", one="1")

    def key(name: str, key: str) -> dict[str, Any]:
        return {"env_value_from": {"A": {"secretKeyRef": {"name": name, "key": key}}}, "workers": 0}

    lost = {"volumes": [{"name": "v", "secret": {"secretName": "lost-volume"}}]}
    messages = crashed(
        world,
        {
            "secret": world.start(lab, key("lost-secret", "x"), what="dask_itself"),
            "key": world.start(lab, key("half", "two"), what="dask_itself"),
            "volume": world.start(
                lab,
                {**lost, "volume_mounts": [{"name": "v", "mountPath": "/v"}], "workers": 0},
                what="dask_itself",
            ),
        },
    )
    assert 'secret "lost-secret" not found' in messages["secret"]
    assert "key two in Secret" in messages["key"]
    assert 'secret "lost-volume" not found' in messages["volume"]
    codes = {name: code_of(message) for name, message in messages.items()}
    assert codes == {"secret": "missing-secret", "key": "missing-key", "volume": "missing-secret"}


def test_what_may_not_be_is_refused_by_name(world: World, lab: str) -> None:
    messages = crashed(
        world,
        {
            "account": world.start(lab, {"service_account": "mighty"}, what="dask_itself"),
            "block": world.start(lab, {"env": {"A": "{{ prefect.blocks.secret.there-is-none }}"}}, what="dask_itself"),
        },
    )
    assert "service_account is 'mighty'" in messages["account"]
    assert "allowed are: deployer, etl" in messages["account"]
    assert "no block 'there-is-none' of type 'secret'" in messages["block"]


def test_an_image_of_ones_own_that_lacks_something_is_said_and_so_is_a_start_script_that_fails(
    world: World,
    lab: str,
    bare_image: str,
) -> None:
    fails = world.start(lab, {"start_script": "echo first\nfalse\necho never\n", "workers": 0}, what="dask_itself")
    messages = crashed(
        world,
        {
            "bare": world.start(lab, {"image": bare_image, "workers": 0}, what="dask_itself"),
            "no python": world.start(lab, {"image": "localhost/pause:1", "workers": 0}, what="dask_itself"),
            "fails": fails,
        },
    )
    assert "the Python package flowgroup is not in it" in messages["bare"]
    assert "there is no python in it" in messages["no python"]
    assert all("install flowgroup[runtime] in it" in messages[name] for name in ("bare", "no python"))
    assert "the start script ended with status 1. [start-script] Its last lines:\nfirst" in messages["fails"]
    said = [entry["message"] for entry in world.stack.logs(fails) if entry["name"] == "flowgroup.start_script"]
    assert said == ["first", "the start script ended with status 1"]


@pytest.fixture(scope="module")
def bare_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python and nothing else."""
    if not real.is_shared(real.kubeconfig()):
        pytest.skip("images are built here by ../shared/cluster only")
    folder: Path = tmp_path_factory.mktemp("bare")
    (folder / "Dockerfile").write_text("FROM python:3.11-slim\nENV BARE=1\n")
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [str(real.SHARED), "build", "docker.io/library/flowgroup-bare:e2e", str(folder)], check=True, timeout=300
        )
    return "docker.io/library/flowgroup-bare:e2e"


# The last one: its clusters have workers, and are kept for a while.
def test_what_a_deployment_refers_to_reaches_its_run_and_its_workers(world: World, lab: str, volume: str) -> None:
    secret(world, "db", password=WORD, user="me")
    _apply(world, "v1", "ConfigMap", "site", data={"SITE": "north", "app.ini": "x = 1"})
    _apply(world, "v1", "ServiceAccount", "etl")
    name = f"word-{uuid.uuid4().hex[:8]}"
    made = block(world, name, f"{WORD}-block")
    world.stack.api.post("/variables/", json={"name": name.replace("-", "_"), "value": "blue"})
    variables = {
        "env": {
            "TOKEN_OF_BLOCK": f"Bearer {{{{ prefect.blocks.secret.{name} }}}}",
            "COLOUR": f"{{{{ prefect.variables.{name.replace('-', '_')} }}}}",
        },
        "env_from": [{"configMapRef": {"name": "site"}}, {"secretRef": {"name": "db"}, "prefix": "DB_"}],
        "env_value_from": {"DB_PASSWORD": {"secretKeyRef": {"name": "db", "key": "password"}}},
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": volume}},
            {"name": "conf", "configMap": {"name": "site", "items": [{"key": "app.ini", "path": "app.ini"}]}},
            {"name": "word", "secret": {"secretName": "db"}},
            {"name": "cache", "emptyDir": {"sizeLimit": "10Mi"}},
        ],
        "volume_mounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "conf", "mountPath": "/etc/app", "readOnly": True},
            {"name": "word", "mountPath": "/word", "readOnly": True},
            {"name": "cache", "mountPath": "/cache"},
        ],
        "service_account": "etl",
        "start_script": SCRIPT,
        "idle_timeout_s": 60,
    }
    of_all = {"DASK_FLOWGROUP_TEST": f"{{{{ prefect.blocks.secret.{name} }}}}"}
    there = world.stack.api.get(f"/deployments/{lab}").json()["job_variables"]
    patched = world.stack.api.patch(f"/deployments/{lab}", json={"job_variables": {**there, "env": of_all}})
    assert patched.is_success, patched.text
    asked = {
        "names": ["DB_PASSWORD", "DB_user", "SITE", "TOKEN_OF_BLOCK", "COLOUR", "DASK_FLOWGROUP_TEST"],
        "files": ["/etc/app/app.ini", "/word/password"],
        "modules": ["installed_by_script"],
    }
    run = world.start(lab, variables, what="finds", with_=asked)
    assert world.stack.wait(run, timeout_s=180)["state_name"] == "Completed", world.stack.message(run)
    everywhere = {
        "DB_PASSWORD": WORD,
        "DB_user": "me",
        "SITE": "north",
        "DASK_FLOWGROUP_TEST": f"{WORD}-block",
        "/etc/app/app.ini": "x = 1",
        "/word/password": WORD,
        "installed_by_script": True,
    }
    told = {"TOKEN_OF_BLOCK": f"Bearer {WORD}-block", "COLOUR": "blue"}
    assert found(world, run) == {
        "run": {**everywhere, **told},
        "worker": {**everywhere, **dict.fromkeys(told)},  # the run's own: the next test has a deployment's
    }

    lines = [(entry["name"], entry["message"]) for entry in world.stack.logs(run)]
    assert lines[0][0] == "flowgroup.start_script"
    assert lines[0][1].startswith("installing on ")
    assert ("flowgroup.start_script", f"the word has {len(WORD)} letters") in lines
    assert any(name == "flowgroup" and "Image: " in text and "sha256:" in text for name, text in lines)

    pods = world.kubectl.json("get", "pods")["items"]
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"etl"}
    assert not any(pod["spec"]["automountServiceAccountToken"] for pod in pods)
    objects = world.kubectl("get", "pods,daskclusters,daskworkergroups,deployments,configmaps", "-o", "yaml")
    assert WORD not in objects
    assert "TOKEN_OF_BLOCK" not in objects
    said = (world.stack.home / "daemon.log").read_text()
    assert WORD not in said

    answer = world.stack.api.patch(f"/block_documents/{made}", json={"data": {"value": "changed"}})
    assert answer.is_success, answer.text
    again = world.start(
        lab, variables, what="finds", with_={**asked, "names": ["TOKEN_OF_BLOCK", "DASK_FLOWGROUP_TEST"]}
    )
    assert world.stack.wait(again, timeout_s=180)["state_name"] == "Completed", world.stack.message(again)
    told_again = found(world, again)
    assert told_again["run"]["TOKEN_OF_BLOCK"] == "Bearer changed"
    assert [told_again[where]["DASK_FLOWGROUP_TEST"] for where in ("run", "worker")] == ["changed", "changed"]
    assert world.stack.cluster_of(again) != world.stack.cluster_of(run)
