"""A daemon on Kubernetes, asked and told through its API."""

import json
import ssl

import httpx
import pytest

from flowgroup.edge.kubernetes import operating, seen
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.client import Client, NotThere
from flowgroup.errors import Permanent
from flowgroup.model.clusters import Ask
from tests.fakes.kubernetes import FakeKubernetes, status

PODS = "/api/v1/namespaces/flowgroup/pods"


def client(api: FakeKubernetes, answers: dict[str, object]) -> Client:
    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path in answers:
            found = answers[path]
            return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)
        return api._answer(request)

    access = Access("https://kubernetes.test", ssl.create_default_context(), "jobs", lambda: "", lambda: "")
    return Client(access, transport=httpx.MockTransport(answer))


def pods(*names: str) -> dict[str, object]:
    return {"items": [{"metadata": {"name": name}, "status": {"phase": "Running"}} for name in names]}


async def test_the_daemon_of_the_pool_is_found_among_those_of_the_namespace() -> None:
    answers: dict[str, object] = {PODS: pods("a", "b")}
    answers |= {f"{PODS}/{name}:8080/proxy/flowgroup/status": {"pool": f"pool {name}"} for name in "ab"}
    asked = client(FakeKubernetes(), answers)
    assert await operating.standing(asked, "flowgroup", "pool b") == {"pool": "pool b"}
    with pytest.raises(Permanent, match="--pool"):
        await operating.standing(asked, "flowgroup", None)
    with pytest.raises(Permanent, match="kubectl exec"):
        await operating.standing(asked, "flowgroup", "another")


async def test_a_daemon_that_cannot_be_reached_is_said_with_the_other_way() -> None:
    path = f"{PODS}/a:8080/proxy/flowgroup/status"
    asked = client(FakeKubernetes(), {PODS: pods("a"), path: status(503, "no route to the pod")})
    with pytest.raises(Permanent, match=r"no route to the pod.*kubectl exec"):
        await operating.standing(asked, "flowgroup", "p")


async def test_what_is_asked_is_noted_on_the_daskcluster_and_read_back_and_neither_ends_the_other() -> None:
    api = FakeKubernetes()
    api.put("daskclusters", {"metadata": {"name": "etl-1"}})
    asked = client(api, {})
    await operating.ask(asked, "etl-1", Ask(reset=True))
    await operating.ask(asked, "etl-1", Ask(scale={"default": 3}, until=5.0))
    assert await operating.asked_before(asked, "etl-1") == Ask(reset=True, scale={"default": 3}, until=5.0)
    assert seen.owner(api.objects["daskclusters", "etl-1"]).ask.scale == {"default": 3}
    assert await operating.asked_before(asked, "gone") == Ask()
    with pytest.raises(NotThere):
        await operating.ask(asked, "gone", Ask(reset=True))


async def test_logs_are_those_of_the_clusters_pods_of_one_role_or_all() -> None:
    api = FakeKubernetes()
    from flowgroup.edge.kubernetes.names import labels
    from flowgroup.model.ids import ClusterName

    for role in ("driver", "worker"):
        metadata = {
            "name": f"etl-1-{role}",
            "labels": labels(ClusterName("etl-1"), "p", **{"flowgroup.dev/role": role}),
        }
        api.put("pods", {"metadata": metadata, "spec": {"containers": [{"name": role}]}})
        api.logs[f"etl-1-{role}"] = f"one\n{role} says"
    asked = client(api, {})
    assert await operating.logs(asked, "p", "etl-1", "worker", 5) == [("etl-1-worker", ["one", "worker says"])]
    assert len(await operating.logs(asked, "p", "etl-1", None, 5)) == 2
    with pytest.raises(Permanent, match="no pods"):
        await operating.logs(asked, "p", "etl-2", None, 5)


async def test_a_right_is_asked_with_its_part() -> None:
    asked: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["spec"]["resourceAttributes"])
        return httpx.Response(201, json={"status": {"allowed": True}})

    access = Access("https://kubernetes.test", ssl.create_default_context(), "jobs", lambda: "", lambda: "")
    assert await operating.may(Client(access, transport=httpx.MockTransport(answer)), "get", "", "pods/log")
    assert asked == [{"namespace": "jobs", "verb": "get", "resource": "pods", "subresource": "log"}]
