"""The backend against a fake API: what goes wrong, and that all comes to a good end."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from flowgroup.edge.kubernetes import client
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.backend import Kubernetes
from flowgroup.edge.kubernetes.client import Client, Forbidden
from flowgroup.edge.kubernetes.names import Ground
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.ids import FIRST_RELAY, FlowId, RelayName
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import KubernetesSettings
from tests.fakes.kubernetes import FakeKubernetes, status

pytestmark = pytest.mark.looptime

OURS = ("configmaps", "secrets", "networkpolicies", "pods", "daskclusters", "deployments", "services")


def spec(**fields: Any) -> ClusterSpec:
    return ClusterSpec(**{"flow_id": FlowId("f"), "flow_name": "my flow", "isolation": "pool", **fields})


SPEC = spec(workers=2)
DRIVER = f"{SPEC.name}-driver"


@pytest.fixture
def api() -> FakeKubernetes:
    return FakeKubernetes()


def backend_on(api: FakeKubernetes, *, pool: str = "a pool", key: str = "key", **more: Any) -> Kubernetes:
    addresses = {"daemon_address": "tls://d.ns.svc:8443", "relay_address": "https://r.ns.svc:4280"}
    settings = KubernetesSettings(**{"image": "runtime", **addresses, **more})
    access = Access("https://k8s", ssl.create_default_context(), "jobs", lambda: "token", lambda: "token")
    return Kubernetes(Client(access, transport=api.transport), Ground(pool, "jobs", settings), key)


@pytest.fixture
async def backend(api: FakeKubernetes) -> AsyncIterator[Kubernetes]:
    made = backend_on(api)
    yield made
    await made.aclose()


def left(api: FakeKubernetes) -> dict[str, list[str]]:
    return {plural: names for plural in OURS if (names := api.names(plural))}


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason}}
    return {"phase": "Failed", "containerStatuses": [{"name": "driver", "state": state, "restartCount": 0}]}


async def test_concurrent_creates_make_one_that_every_daemon_finds_and_only_of_its_pool(
    api: FakeKubernetes, backend: Kubernetes
) -> None:
    made = await asyncio.gather(*(backend.create(SPEC) for _ in range(5)))
    assert all(one == made[0] for one in made)
    assert api.names("daskclusters") == [SPEC.name]
    assert api.names("pods") == [DRIVER, f"{SPEC.name}-scheduler"]
    assert await backend_on(api).find() == [made[0]]
    assert await backend_on(api, pool="another").find() == []
    assert ("list", "secrets") not in {call[:2] for call in api.seen}
    assert ("get", "secrets") not in {call[:2] for call in api.seen}


@pytest.mark.parametrize("plural", ["daskclusters", "secrets", "networkpolicies", "configmaps", "pods"])
@pytest.mark.parametrize(
    "trouble", [httpx.ConnectError("no"), status(500, "etcd"), status(429, "slow"), status(504, "late")]
)
async def test_a_create_that_was_cut_off_anywhere_is_finished_by_the_next(
    api: FakeKubernetes, backend: Kubernetes, plural: str, trouble: Any
) -> None:
    api.fail["create", plural] = [trouble]
    with pytest.raises(Transient):
        await backend.create(SPEC)
    made = await backend.create(SPEC)
    assert await backend_on(api).find() == [made]
    assert await backend.look(SPEC.name) is None
    assert DRIVER in api.names("pods")


async def test_what_was_half_made_is_removed_by_the_next_daemon(api: FakeKubernetes, backend: Kubernetes) -> None:
    api.fail["create", "configmaps"] = [httpx.ConnectError("no")]
    with pytest.raises(Transient):
        await backend.create(SPEC)
    assert await backend_on(api).find() == []
    assert left(api) == {}


@pytest.mark.parametrize("wrong", ["no spec", "not json", "another owner", "another key"])
async def test_a_cluster_that_cannot_be_served_is_removed(api: FakeKubernetes, backend: Kubernetes, wrong: str) -> None:
    await backend.create(SPEC)
    config_map = api.objects["configmaps", SPEC.name]
    if wrong == "another owner":
        config_map["metadata"]["ownerReferences"][0]["uid"] = "of before"
    elif wrong != "another key":
        config_map["data"] = {} if wrong == "no spec" else {"spec.json": "{"}
    assert await backend_on(api, key="new" if wrong == "another key" else "key").find() == []
    assert left(api).keys() <= {"configmaps"}


async def test_what_a_former_cluster_of_that_name_left_goes_first(api: FakeKubernetes, backend: Kubernetes) -> None:
    made = await backend.create(SPEC)
    stale = {key: dict(value) for key, value in api.objects.items() if key[0] in ("configmaps", "secrets", "pods")}
    await backend.delete(SPEC.name)
    for (plural, _), value in stale.items():
        api.put(plural, value)
    again = await backend.create(SPEC)
    assert again.secret != made.secret
    owner = api.objects["daskclusters", SPEC.name]["metadata"]["uid"]
    for plural, name in (("configmaps", SPEC.name), ("secrets", SPEC.name), ("pods", DRIVER)):
        assert api.objects[plural, name]["metadata"]["ownerReferences"][0]["uid"] == owner


async def test_a_cluster_whose_driver_has_ended_is_made_anew(api: FakeKubernetes, backend: Kubernetes) -> None:
    made = await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = ended(1)
    again = await backend.create(SPEC)
    assert made.secret != again.secret
    assert await backend.look(SPEC.name) is None


async def test_a_deleted_cluster_leaves_nothing_and_may_be_deleted_again(
    api: FakeKubernetes, backend: Kubernetes
) -> None:
    await backend.create(SPEC)
    await backend.delete(SPEC.name)
    assert left(api) == {}
    await backend.delete(SPEC.name)
    assert "is gone" in str(await backend.look(SPEC.name))


async def test_a_delete_that_was_cut_off_is_finished_by_the_next(api: FakeKubernetes, backend: Kubernetes) -> None:
    await backend.create(SPEC)
    for step in ("pods", "daskclusters", "networkpolicies", "secrets"):
        api.fail["delete", step] = [httpx.ReadTimeout("late")]
        with pytest.raises(Transient):
            await backend.delete(SPEC.name)
    await backend.delete(SPEC.name)
    assert left(api) == {}


@pytest.mark.parametrize("is_seen_first", [True, False])
async def test_without_the_operator_it_is_deleted_by_force_after_its_time(
    api: FakeKubernetes, backend: Kubernetes, is_seen_first: bool
) -> None:
    api.operator = is_seen_first
    await backend.create(SPEC)
    api.operator = False
    clock = asyncio.get_running_loop().time
    began = clock()
    await backend.delete(SPEC.name)
    assert left(api) == {}
    assert (clock() - began > 30) is is_seen_first
    assert clock() - began < 40


async def test_only_the_operators_finalizer_is_taken_away(api: FakeKubernetes, backend: Kubernetes) -> None:
    await backend.create(SPEC)
    api.operator = False
    metadata = api.objects["daskclusters", SPEC.name]["metadata"]
    metadata["finalizers"].append("somebody.else/holds")
    with pytest.raises(Transient, match="still there: daskcluster/"):
        await backend.delete(SPEC.name)
    assert metadata["finalizers"] == ["somebody.else/holds"]


async def test_a_pod_that_does_not_go_is_named(api: FakeKubernetes, backend: Kubernetes) -> None:
    await backend.create(SPEC)
    labels = api.objects["pods", DRIVER]["metadata"]["labels"]
    api.put("pods", {"metadata": {"name": "stuck", "labels": labels, "finalizers": ["lost"]}})
    api.operator = False
    with pytest.raises(Transient, match=r"still there: stuck\. Is their node lost"):
        await backend.delete(SPEC.name)


async def test_look_asks_once_a_second_for_all_clusters(api: FakeKubernetes, backend: Kubernetes) -> None:
    names = [(await backend.create(spec(flow_name=f"flow {number}"))).name for number in range(20)]
    before = api.calls("list", "pods")
    for _ in range(3):
        assert await asyncio.gather(*(backend.look(name) for name in names)) == [None] * 20
    assert api.calls("list", "pods") - before == 1
    await asyncio.sleep(1.1)
    await asyncio.gather(*(backend.look(name) for name in names))
    assert api.calls("list", "pods") - before == 2


@pytest.mark.parametrize("trouble", [httpx.ConnectError("no"), status(503, "down"), status(403, "no")])
async def test_what_cannot_be_seen_is_not_dead(api: FakeKubernetes, backend: Kubernetes, trouble: Any) -> None:
    await backend.create(SPEC)
    api.fail["list", "pods"] = [trouble] * 2
    assert await backend.look(SPEC.name) is None
    assert "does not say" in str(await backend.why_waiting(SPEC.name))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (ended(137, "OOMKilled"), r"OOMKilled.*larger driver_size"),
        (ended(3), r"exit status 3\..*last lines:\nthe end"),
        (ended(128, "StartError"), r"must have Python and flowgroup\[runtime\]"),
        ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}, r"evicted.*low on memory"),
        ({"phase": "Failed", "reason": "NodeShutdown", "message": "going"}, "was ended: going"),
    ],
)
async def test_a_driver_that_ended_is_said_with_cause_and_remedy(
    api: FakeKubernetes, backend: Kubernetes, status: dict[str, Any], said: str
) -> None:
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = status
    api.logs[DRIVER] = "the end"
    assert re.search(said, str(await backend.look(SPEC.name)), re.DOTALL)


async def test_its_last_lines_are_asked_for_once(api: FakeKubernetes, backend: Kubernetes) -> None:
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = ended(1)
    first = await backend.look(SPEC.name)
    await asyncio.sleep(2)
    assert await backend.look(SPEC.name) == first
    assert sum(name == DRIVER for verb, plural, name in api.seen if verb == "get") == 1


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    entry = {"name": "driver", "state": {"waiting": {"reason": reason, "message": message}}, "restartCount": 0}
    return {"phase": "Pending", "containerStatuses": [entry]}


@pytest.mark.parametrize(
    ("status", "after_s", "is_alive", "waits_for"),
    [
        (waiting("ContainerCreating"), 600, True, None),
        (waiting("ErrImagePull", "dial tcp: i/o timeout"), 600, True, "cannot be pulled"),
        (waiting("ImagePullBackOff", "repo/x:1: not found"), 30, True, "not found"),
        (waiting("ImagePullBackOff", "repo/x:1: not found"), 90, False, "not found"),
        (waiting("InvalidImageName", "couldn't parse"), 0, False, "couldn't parse"),
        (waiting("CreateContainerConfigError", "configmap is missing"), 10, True, "configmap is missing"),
        (waiting("CreateContainerConfigError", "configmap is missing"), 30, False, "configmap is missing"),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: 1 Insufficient cpu."}
                ],
            },
            600,
            True,
            "cannot be scheduled: 0/1 nodes: 1 Insufficient cpu.",
        ),
    ],
)
async def test_what_only_waits_is_alive_and_says_why(
    api: FakeKubernetes,
    backend: Kubernetes,
    status: dict[str, Any],
    after_s: float,
    is_alive: bool,
    waits_for: str | None,
) -> None:
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = status
    await backend.look(SPEC.name)
    await asyncio.sleep(after_s)
    assert (await backend.look(SPEC.name) is None) is is_alive
    said = await backend.why_waiting(SPEC.name)
    assert waits_for in str(said) if waits_for else said is None


async def test_a_scheduler_that_crashes_again_and_again_is_said(api: FakeKubernetes, backend: Kubernetes) -> None:
    await backend.create(SPEC)
    entry = {
        "name": "scheduler",
        "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }
    container = {"name": "scheduler", "resources": {"limits": {"memory": "1Gi"}}}
    api.objects["pods", f"{SPEC.name}-scheduler"]["spec"] = {"containers": [container]}
    api.set_status(f"{SPEC.name}-scheduler", phase="Running", containerStatuses=[entry])
    api.logs[f"{SPEC.name}-scheduler"] = "too much"
    said = str(await backend.look(SPEC.name))
    assert f"the scheduler (pod {SPEC.name}-scheduler) ends again and again" in said
    assert "larger scheduler_size" in said
    assert "too much" in said


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_deaf_operator_is_said_with_the_remedy_where_it_is_needed(
    api: FakeKubernetes, backend: Kubernetes, workers: int
) -> None:
    api.operator = False
    name = (await backend.create(spec(workers=workers))).name
    assert await backend.look(name) is None
    api.now = "Wed, 25 Nov 2026 04:00:31 GMT"
    await asyncio.sleep(2)
    said = await backend.look(name)
    assert ("is it running, and does it watch namespace jobs?" in str(said)) is (workers > 0)


async def test_a_scheduler_that_may_not_be_made_waits_and_says_why(api: FakeKubernetes, backend: Kubernetes) -> None:
    await backend.create(SPEC)
    del api.objects["pods", f"{SPEC.name}-scheduler"]
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods=3"}
    api.objects["deployments", f"{SPEC.name}-scheduler"]["status"] = {"conditions": [failure]}
    api.now = "Wed, 25 Nov 2026 04:00:31 GMT"
    assert await backend.look(SPEC.name) is None
    assert "exceeded quota" in str(await backend.why_waiting(SPEC.name))


async def test_a_driver_whose_pod_is_gone_is_dead_unless_it_is_only_being_made(
    api: FakeKubernetes, backend: Kubernetes
) -> None:
    await backend.create(SPEC)
    del api.objects["pods", DRIVER]
    assert await backend.look(SPEC.name) is None
    api.now = "Wed, 25 Nov 2026 04:00:31 GMT"
    await asyncio.sleep(2)
    assert "the driver's pod is gone" in str(await backend.look(SPEC.name))


async def test_a_cluster_that_is_being_deleted_is_dead_and_made_anew(api: FakeKubernetes, backend: Kubernetes) -> None:
    made = await backend.create(SPEC)
    api.operator = False
    api.objects["daskclusters", SPEC.name]["metadata"]["deletionTimestamp"] = api.made
    assert "is being deleted" in str(await backend.look(SPEC.name))
    assert (await backend.create(SPEC)).secret != made.secret


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (None, Forbidden, "give its Role there the verb 'create' on 'pods'"),
        (status(403, 'pods "x" is forbidden: exceeded quota: q'), Transient, "ResourceQuota is used up"),
        (status(403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'), Permanent, "PodSecurity"),
        (status(422, "Pod is invalid", fields=("spec.nodeSelector",)), Permanent, r"wrong: spec\.nodeSelector"),
        (status(401, "Unauthorized"), Permanent, "renew the kubeconfig"),
        (httpx.Response(200, text="<html>"), Permanent, "is not JSON"),
    ],
)
async def test_what_kubernetes_refuses_is_said_with_what_to_change(
    api: FakeKubernetes, backend: Kubernetes, answer: Any, error: type[Exception], said: str
) -> None:
    plural = "daskclusters" if answer is not None and answer.status_code == 200 else "pods"
    if answer is None:
        api.forbid("create", "pods")
    else:
        api.fail["create", plural] = [answer] * 2
    with pytest.raises(error, match=said):
        await backend.create(SPEC)


async def test_without_the_operators_types_the_remedy_is_said(api: FakeKubernetes, backend: Kubernetes) -> None:
    api.fail["create", "daskclusters"] = [status(404, "the server could not find the requested resource")]
    with pytest.raises(Permanent, match="Is the Dask operator with its custom resource definitions installed"):
        await backend.create(SPEC)


async def test_more_objects_than_a_page_are_all_found(
    api: FakeKubernetes, backend: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {(await backend.create(spec(flow_name=f"f{number}"))).name for number in range(3)}
    monkeypatch.setattr(client, "_PAGE", 2)
    assert {found.name for found in await backend.find()} == made


async def test_wrong_specs_are_refused_before_anything_is_made(api: FakeKubernetes, backend: Kubernetes) -> None:
    with pytest.raises(Refused, match="worker_size is 'huge'"):
        await backend.create(spec(workers=1, worker_size="huge"))
    assert api.seen == []


async def test_a_cluster_keeps_the_relay_that_it_was_made_with(api: FakeKubernetes) -> None:
    other = "https://r-1.ns.svc:4280"
    of = SPEC.model_copy(update={"relay": RelayName(other)})
    with_two = backend_on(api, relay_address=f"https://r.ns.svc:4280,{other}")
    assert with_two.relays == (FIRST_RELAY, other)
    assert [str(await with_two.relay(name)) for name in with_two.relays] == ["https://r.ns.svc:4280", other]
    await with_two.create(of)
    with_one = backend_on(api)
    assert with_one.relays == (FIRST_RELAY,)
    (found,) = await with_one.find()
    assert (found.name, found.spec.relay) == (of.name, other)
    assert str(await with_one.relay(found.spec.relay)) == other


def test_an_address_of_a_relay_that_cannot_be_read_is_refused(api: FakeKubernetes) -> None:
    with pytest.raises(Refused, match="'http://r-1:80' is no address"):
        backend_on(api, relay_address="https://r.ns.svc:4280,http://r-1:80")
