"""Kubernetes' objects, and its API's answers, when they are not of the form that they should have."""

import contextlib
import json
import ssl
from random import Random
from typing import Any

import httpx

from flowgroup.edge.kubernetes import diagnose, images, seen
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.backend import Kubernetes
from flowgroup.edge.kubernetes.client import PODS, Client
from flowgroup.edge.kubernetes.level import Levels
from flowgroup.edge.kubernetes.names import Ground
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import ClusterName, FlowId
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import KubernetesSettings
from tests.fuzz.mutating import fuzz, fuzz_async, spoilt, spoilt_bytes
from tests.fuzz.recorded import OWNER, POD

TLS = ssl.create_default_context()
DEPLOYMENT = {"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]}}


def an_object(value: Any, random: Random) -> dict[str, Any]:
    made = spoilt(value, random)
    return made if isinstance(made, dict) else {}


def test_any_object_is_a_pod_and_can_be_judged() -> None:
    def check(random: Random) -> None:
        pod = seen.pod(an_object(POD, random))
        for judge in (diagnose.waits, diagnose.crashes, diagnose.not_pulled, diagnose.never_pulled):
            judge(pod)
        diagnose.ended(pod, now=1e9)
        diagnose.no_worker([pod, pod])
        diagnose.why_waiting([pod, seen.pod(POD)], 2)
        images.remarks([pod, seen.pod(POD)])

    fuzz(check, share=2)


def test_any_object_is_an_owner_and_any_deployment_may_fail() -> None:
    def check(random: Random) -> None:
        owner = seen.owner(an_object(OWNER, random))
        assert isinstance(owner.workers, int)
        assert seen.replica_failure(an_object(DEPLOYMENT, random)) is not None

    fuzz(check)


def answers(random: Random, **good: Any) -> httpx.MockTransport:
    random = Random(random.getrandbits(64))  # calls come together, in an order that is not Hypothesis's

    def answer(request: httpx.Request) -> httpx.Response:
        said = next((value for part, value in good.items() if part in str(request.url)), {"items": [], "metadata": {}})
        headers = {
            "date": random.choice(("Wed, 25 Nov 2026 04:00:00 GMT", "", "nonsense", "Wed, 25 Nov 0000 04:00:00 GMT"))
        }
        return httpx.Response(
            random.choice((200, 200, 200, 404, 409, 500)), content=spoilt_bytes(said, random), headers=headers
        )

    return httpx.MockTransport(answer)


def client_with(transport: httpx.MockTransport) -> Client:
    return Client(Access("https://k8s", TLS, "jobs", lambda: "token", lambda: "token"), transport=transport)


def listed(*items: Any) -> dict[str, Any]:
    return {"kind": "List", "metadata": {"resourceVersion": "1", "continue": ""}, "items": list(items)}


async def test_whatever_the_api_lists_is_a_level_or_an_error_of_ours() -> None:
    async def check(random: Random) -> None:
        client = client_with(answers(random, pods=listed(POD, POD), daskclusters=listed(OWNER)))
        try:
            with contextlib.suppress(FlowgroupError):
                level = await Levels(client, "pool").now()
                assert all(isinstance(name, str) for name in level.owners)
        finally:
            await client.aclose()

    await fuzz_async(check)


async def test_a_bad_object_costs_no_good_one() -> None:
    good = {**POD, "metadata": {**POD["metadata"], "name": "good"}}

    async def check(random: Random) -> None:
        items = [good, spoilt(POD, random), good]
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=json.dumps(listed(*items))))
        client = client_with(transport)
        try:
            found = [seen.pod(item).name for item in (await client.listed(PODS, "a=b")).items]
        finally:
            await client.aclose()
        assert found[0] == found[-1] == "good"

    await fuzz_async(check)


async def test_the_backend_says_its_own_errors_whatever_the_api_answers() -> None:
    addresses = {"daemon_address": "tls://d.ns.svc:8443", "relay_address": "https://r.ns.svc:4280"}
    ground = Ground("a pool", "jobs", KubernetesSettings(image="runtime", **addresses))
    name = ClusterName("etl-1234")
    spec = ClusterSpec(flow_id=FlowId("1"), flow_name="etl", isolation="a pool")

    async def check(random: Random) -> None:
        transport = answers(random, pods=listed(POD), daskclusters=listed(OWNER), deployments=listed(DEPLOYMENT))
        backend = Kubernetes(client_with(transport), ground, "key")
        try:
            for call in (backend.find, lambda: backend.look(name), lambda: backend.why_never(name),
                         lambda: backend.why_waiting(name), lambda: backend.remarks(spec)):  # fmt: skip
                with contextlib.suppress(FlowgroupError):
                    await call()
        finally:
            await backend.aclose()

    await fuzz_async(check, share=0.3)
