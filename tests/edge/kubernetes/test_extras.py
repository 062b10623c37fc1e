"""What a deployment adds to its cluster's pods, as Kubernetes gets it; and what their kubelets say of it."""

import asyncio
import base64
import json
from typing import Any

import pytest

from flowgroup.edge.kubernetes import images
from flowgroup.edge.kubernetes.diagnose import crashed, crashes, ended, lacking, no_worker, waits
from flowgroup.edge.kubernetes.references import References
from flowgroup.edge.kubernetes.seen import Container, Pod
from flowgroup.errors import Refused, Transient
from flowgroup.model.ids import ClusterName
from flowgroup.model.spec import sealed
from flowgroup.model.variables import WorkerGroup, parse
from tests.edge.kubernetes.test_backend import backend_on, waiting
from tests.edge.kubernetes.test_manifests import env_of, ground, made, pods, spec
from tests.fakes.kubernetes import FakeKubernetes
from tests.model.test_pod import GOOD

EXTRAS = parse(GOOD).pod_extras()
ALLOWING = ground(service_accounts="etl, deployer:token")
EVERYWHERE = ["driver", "scheduler", "default"]


@pytest.mark.parametrize("which", EVERYWHERE)
def test_every_process_of_a_cluster_gets_the_same(which: str) -> None:
    pod = pods(spec(workers=1, pod=EXTRAS), ALLOWING)[which]
    (container,) = pod["containers"]
    assert container["envFrom"] == GOOD["env_from"]
    assert {"name": "WORD", "valueFrom": GOOD["env_value_from"]["WORD"]} in container["env"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["x-data"]["persistentVolumeClaim"] == {"claimName": "shared"}
    assert volumes["x-certs"]["secret"] == {"secretName": "certs", "defaultMode": 0o440}
    assert volumes["x-cache"]["emptyDir"] == {"sizeLimit": "1Gi"}
    assert {"name": "x-data", "mountPath": "/data", "readOnly": True} in container["volumeMounts"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("etl", False)
    assert {"emptyDir", "configMap", "secret", "persistentVolumeClaim"} >= {
        kind for volume in pod["volumes"] for kind in volume if kind != "name"
    }


def test_a_scheduler_that_only_sleeps_gets_nothing_and_without_extras_all_is_as_before() -> None:
    assert "envFrom" not in pods(spec(pod=EXTRAS), ALLOWING)["scheduler"]["containers"][0]
    assert all("envFrom" not in pod["containers"][0] for pod in pods(spec(workers=1)).values())


def test_what_the_spec_and_we_say_of_a_variable_is_stronger() -> None:
    said = {"env_value_from": {name: GOOD["env_value_from"]["WORD"] for name in ("DASK_X", "OMP_NUM_THREADS", "MINE")}}
    container = pods(spec(workers=1, env={"DASK_X": "1"}, pod=parse(said).pod_extras()))["default"]["containers"][0]
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    assert [entry["name"] for entry in container["env"] if "valueFrom" in entry] == ["MINE"]


def test_secret_values_are_in_the_clusters_own_secret_and_nowhere_else() -> None:
    of = sealed(spec(workers=1, env={"DASK_TOKEN": "hush", "DASK_X": "1"}), frozenset({"DASK_TOKEN"}), "key")
    objects = made(of)
    assert base64.b64decode(objects[f"Secret/{of.name}"]["data"]["env.DASK_TOKEN"]) == b"hush"
    entry = {"name": "DASK_TOKEN", "valueFrom": {"secretKeyRef": {"name": of.name, "key": "env.DASK_TOKEN"}}}
    assert all(entry in pod["containers"][0]["env"] for pod in pods(of).values())
    others = {name: one for name, one in objects.items() if not name.startswith("Secret/")}
    assert "hush" not in json.dumps(others)
    assert json.loads(objects[f"ConfigMap/{of.name}"]["data"]["spec.json"])["secret_env"].keys() == {"DASK_TOKEN"}


def test_a_service_account_is_one_of_those_that_are_allowed_and_its_token_is_mounted_only_where_that_is_said() -> None:
    mighty = parse({"service_account": "deployer"}).pod_extras()
    assert pods(spec(pod=mighty), ALLOWING)["driver"]["automountServiceAccountToken"] is True
    with pytest.raises(Refused, match=r"service_account is 'etl', .*allowed are: none"):
        pods(spec(pod=EXTRAS), ground())


def test_no_run_gets_what_images_are_pulled_with() -> None:
    with pytest.raises(Refused, match="the Secret 'db' is for pulling images"):
        pods(spec(pod=EXTRAS), ground(service_accounts="etl", image_pull_secrets="db"))


def test_the_start_script_runs_first_on_schedulers_and_workers_too() -> None:
    of = spec(workers=1, start_script="pip install x")
    whole, found = made(of), pods(of)
    assert whole[f"ConfigMap/{of.name}"]["data"]["start.sh"] == "pip install x"
    plain = pods(spec(workers=1))
    for which in ("scheduler", "default"):
        command = found[which]["containers"][0]["command"]
        assert command[:2] == ["bash", "-c"]
        unscripted = plain[which]["containers"][0]["command"]
        assert command[4:] == [word.replace(spec(workers=1).name, of.name) for word in unscripted]
        assert "$(" not in command[2]
        assert any(
            mount["mountPath"] == "/etc/flowgroup/start" for mount in found[which]["containers"][0]["volumeMounts"]
        )
    assert found["driver"]["containers"][0]["command"][0] == "python"  # it runs the script itself
    assert env_of(found["default"]) == env_of(plain["default"])


def pod(role: str = "driver", image_id: str = "", image: str = "x:1", **container: Any) -> Pod:
    entries = (Container(role, **container),) if container else ()
    return Pod(f"p-{role}", f"uid-{role}", ClusterName("c"), role, containers=entries, image=image, image_id=image_id)


def test_a_name_that_has_become_two_images_is_warned_of() -> None:
    same = [
        pod("driver", "sha256:1"),
        pod("scheduler", "sha256:1"),
        pod("worker", ""),
        pod("worker", "sha256:9", "gpu:2"),
    ]
    assert [(one.text, one.is_warning) for one in images.remarks(same)] == [("Image: x:1 (sha256:1)", False)]
    _, warned = images.remarks([*same, pod("worker", "sha256:2"), pod("worker", "sha256:2")])
    assert warned.is_warning
    assert "driver, scheduler: sha256:1; 2 workers: sha256:2" in warned.text
    (pinned,) = images.remarks([pod("driver", "x@sha256:1", "x@sha256:1")])
    assert pinned.text == "Image: x@sha256:1"


@pytest.mark.parametrize(
    ("said", "lacks"),
    [
        ('exec: "python": executable file not found in $PATH: unknown', "there is no python in it"),
        ('runc create failed: exec: "bash": executable file not found in $PATH', "there is no bash in it"),
        ("python: No module named flowgroup", "package flowgroup is"),
        ("ModuleNotFoundError: No module named 'distributed.cli'", "package distributed is"),
        ("importlib.metadata.PackageNotFoundError: No package metadata was found for prefect", "package prefect is"),
        ("No package metadata was found for prefect-dask", "package prefect-dask is"),
        ("OSError: disk", None),
        ("ModuleNotFoundError: No module named 'pandas'", None),
        ("ModuleNotFoundError: No module named 'dask_cudf'", None),
        ("No package metadata was found for prefect-aws", None),
    ],
)
def test_what_an_image_lacks_is_named(said: str, lacks: str | None) -> None:
    told = lacking(said)
    assert (lacks is None) is (told is None)
    if told and lacks:
        assert lacks in told
        assert "install flowgroup[runtime] in it" in told
        gone = Container("driver", state="terminated", reason="StartError", exit_code=128, message=said)
        dead = Pod("p", "u", ClusterName("c"), "driver", phase="Failed", containers=(gone,))
        assert lacks in str(ended(dead, now=0))


def test_a_worker_whose_start_script_failed_says_so_at_its_first_end() -> None:
    failed = pod(
        "worker",
        state="waiting",
        reason="CrashLoopBackOff",
        restarts=1,
        exit_code=79,
        ended="Error",
        last_words="no pip\n",
    )
    assert "[start-script] Its last lines:\nno pip" in str(waits(failed))
    other = pod("worker", state="waiting", reason="CrashLoopBackOff", restarts=1, exit_code=1, ended="Error")
    assert crashes(other) is None
    entry = crashes(failed)
    assert entry
    assert "ends again and again" in crashed(failed, entry)


SCRIPT_FAILED = {"state": "waiting", "reason": "CrashLoopBackOff", "restarts": 1, "exit_code": 79, "ended": "Error"}


@pytest.mark.parametrize(
    ("others", "is_hopeless"),
    [
        ([], True),
        ([pod("worker", **SCRIPT_FAILED)], True),
        ([pod("worker", state="running")], False),
        ([Pod("q", "u", ClusterName("c"), "worker", unschedulable="no node")], False),
        ([pod("worker", **{**SCRIPT_FAILED, "exit_code": 1})], False),  # another try may end otherwise
    ],
)
def test_a_cluster_has_no_hope_of_a_worker_when_all_that_there_are_end_by_what_another_try_would_end_by(
    others: list[Pod], is_hopeless: bool
) -> None:
    failed = pod("worker", **SCRIPT_FAILED, last_words="first\nflowgroup: the start script ended with status 3\n")
    said = no_worker([failed, *others])
    assert (said is not None) is is_hopeless
    if said:
        assert f"({1 + len(others)} of {1 + len(others)} have ended)" in said
        assert (
            "the worker (pod p-worker) ends again and again: its start script failed." in said
            and "[start-script] Its last lines:\nfirst\n" in said
        )
        assert said.endswith("ended with status 3")
    assert no_worker([]) is None


def event(reason: str, message: str, second: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"e{second}"},
        "involvedObject": {"uid": "uid-driver"},
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-01-01T00:00:{second:02}Z",
    }


FAILED = event("FailedMount", 'MountVolume.SetUp failed for volume "x-v" : secret "lost" not found', 1)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([FAILED], 'secret "lost" not found'),
        ([event("FailedMount", "references non-existent secret key: k", 1)], "non-existent secret key"),
        ([FAILED, event("Pulling", "an image", 2)], None),
        ([event("FailedMount", "timed out waiting for the condition", 1)], None),
        ([], None),
    ],
)
async def test_a_volume_that_cannot_be_mounted_is_said_when_it_lasts(events: list[Any], said: str | None) -> None:
    api = FakeKubernetes()
    for one in events:
        api.put("events", one)
    backend = backend_on(api)
    references, creating = References(backend.client), pod(state="waiting", reason="ContainerCreating")
    assert await references.missing(creating) is None
    assert ("list", "events", "") not in api.seen  # most pods soon run
    for _ in range(30):
        await asyncio.sleep(1)
        lacks = await references.missing(creating)
    assert (said in str(lacks)) if said else lacks is None
    assert len([call for call in api.seen if call[1] == "events"]) <= 6
    assert await references.missing(pod(state="running")) is None
    await backend.aclose()


@pytest.mark.looptime
async def test_without_the_right_to_list_events_nothing_else_is_lost() -> None:
    from tests.edge.kubernetes.test_backend import DRIVER, SPEC
    from tests.fakes.kubernetes import status

    api = FakeKubernetes()
    backend = backend_on(api)
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = waiting("ContainerCreating")
    api.fail["list", "events"] = [status(403, 'cannot list resource "events"') for _ in range(100)]
    for _ in range(30):
        await asyncio.sleep(1)
        assert await backend.look(SPEC.name) is None
    await backend.aclose()


@pytest.mark.looptime
async def test_the_images_of_a_whole_cluster_are_asked_for() -> None:
    from tests.edge.kubernetes.test_backend import DRIVER, SPEC
    from tests.fakes.kubernetes import status

    api = FakeKubernetes()
    backend = backend_on(api)
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = {"phase": "Running", "containerStatuses": [{"imageID": "sha256:1"}]}
    (told,) = await backend.remarks(SPEC)
    assert told.text == "Image: runtime (sha256:1)"
    pinned = SPEC.model_copy(update={"image": f"runtime:1@sha256:{'0' * 64}"})
    api.fail["list", "pods"] = [status(500, "nobody need ask")]
    assert [one.text for one in await backend.remarks(pinned)] == [f"Image: {pinned.image}"]
    group = WorkerGroup(name="gpu", count=1, image="gpu:2")
    with pytest.raises(Transient, match="nobody need ask"):  # that one's name may be several
        await backend.remarks(pinned.model_copy(update={"worker_groups": (group,)}))
    await backend.aclose()
