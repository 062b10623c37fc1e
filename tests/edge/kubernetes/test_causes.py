"""Causes that only the whole backend can tell, against a fake API: what was seen before a pod went, and what was never made."""

import asyncio
from typing import Any

import pytest

from flowgroup.errors import Permanent, Transient
from flowgroup.model.causes import code_of
from tests.edge.kubernetes.test_backend import DRIVER, SPEC, api, backend, waiting
from tests.edge.kubernetes.test_crew import put_worker
from tests.fakes.kubernetes import FakeKubernetes, status

__all__ = ["api", "backend"]
pytestmark = pytest.mark.looptime
LATER = "Wed, 25 Nov 2026 04:00:31 GMT"


def disrupted(reason: str) -> dict[str, Any]:
    entry = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "Eviction API: evicting"}
    running = {"name": "driver", "state": {"running": {}}, "restartCount": 0}
    return {"phase": "Running", "conditions": [entry], "containerStatuses": [running]}


async def pass_time(api: FakeKubernetes, seconds: float = 2.0) -> None:
    api.now = LATER
    await asyncio.sleep(seconds)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("EvictionByEvictionAPI", "evicted-api"),
        ("PreemptionByScheduler", "preempted"),
        ("DeletionByTaintManager", "node-lost"),
    ],
)
async def test_why_a_driver_was_evicted_is_known_after_its_pod_has_gone(
    api: FakeKubernetes, backend: Any, reason: str, code: str
) -> None:
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = disrupted(reason)
    assert await backend.look(SPEC.name) is None  # it may still be about to end its runs
    del api.objects["pods", DRIVER]
    await asyncio.sleep(2)  # at once, for it is known to have been there
    assert code_of(str(await backend.look(SPEC.name))) == code
    await backend.delete(SPEC.name)
    await backend.create(SPEC)
    del api.objects["pods", DRIVER]
    api.now = "Wed, 25 Nov 2026 04:10:00 GMT"
    await pass_time(api)
    assert code_of(str(await backend.look(SPEC.name))) == "pod-deleted"  # the former cluster's end is not this one's


async def test_losses_are_the_ends_of_workers_and_of_the_scheduler_by_the_names_that_dask_knows(
    api: FakeKubernetes, backend: Any
) -> None:
    await backend.create(SPEC)
    assert await backend.losses(SPEC.name) == {}
    oom = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    entry = {"name": "worker", "state": {"running": {}}, "lastState": oom, "restartCount": 1}
    put_worker(api, "fine", {"name": "worker", "state": {"running": {}}, "restartCount": 0})
    put_worker(api, "w-pod", entry)
    old = {"terminated": {**oom["terminated"], "finishedAt": "2026-11-25T03:00:00Z"}}
    put_worker(api, "well-again", {**entry, "lastState": old})
    api.objects["pods", "w-pod"]["spec"] = {
        "containers": [
            {
                "name": "worker",
                "env": [{"name": "DASK_WORKER_NAME", "value": "w-1"}],
                "resources": {"limits": {"memory": "2Gi"}},
            }
        ]
    }
    crashed = {"terminated": {"exitCode": 1, "reason": "Error"}}
    scheduler = {"name": "scheduler", "state": {"running": {}}, "lastState": crashed, "restartCount": 1}
    api.set_status(f"{SPEC.name}-scheduler", phase="Running", containerStatuses=[scheduler])
    losses = await backend.losses(SPEC.name)
    assert {name: code_of(why) for name, why in losses.items()} == {
        "w-1": "oom-container",
        "scheduler": "container-exit",
    }
    assert "(2.00 GiB)" in losses["w-1"]
    api.fail["list", "pods"] = [status(503, "away")]
    with pytest.raises(Transient):
        await backend.losses(SPEC.name)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ('pods "w" is forbidden: exceeded quota: team, requested: pods=1', "quota"),
        ('admission webhook "a.example.org" denied the request: no', "webhook-denied"),
        ("", "no-workers"),
    ],
)
async def test_workers_that_nobody_may_make_are_said_and_so_is_that_there_are_none(
    api: FakeKubernetes, backend: Any, words: str, code: str
) -> None:
    await backend.create(SPEC)
    assert await backend.why_waiting(SPEC.name) is None  # the operator is about to make them
    labels = api.objects["daskclusters", SPEC.name]["metadata"]["labels"]
    failure = {"type": "ReplicaFailure", "status": "True", "message": words}
    api.put("deployments", {"metadata": {"name": "w", "labels": labels}})
    api.objects["deployments", "w"]["status"] = {"conditions": [failure] if words else []}
    await pass_time(api)
    assert code_of(str(await backend.why_waiting(SPEC.name))) == code
    assert await backend.look(SPEC.name) is None


@pytest.mark.parametrize(
    ("event", "code"), [("FailedCreatePodSandBox", "sandbox-failed"), ("FailedMount", "mount-failed")]
)
async def test_what_may_come_right_by_itself_is_said_and_ends_nothing(
    api: FakeKubernetes, backend: Any, event: str, code: str
) -> None:
    await backend.create(SPEC)
    api.objects["pods", DRIVER]["status"] = waiting("ContainerCreating")
    uid = api.objects["pods", DRIVER]["metadata"]["uid"]
    words = {"reason": event, "message": "it does not work", "lastTimestamp": "2026-11-25T04:00:01Z"}
    api.put("events", {"metadata": {"name": "e"}, "involvedObject": {"uid": uid}, **words})
    await backend.look(SPEC.name)
    await pass_time(api, 30)
    assert await backend.look(SPEC.name) is None
    assert code_of(str(await backend.why_waiting(SPEC.name))) == code


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (status(400, 'admission webhook "a.example.org" denied the request: no'), Permanent, "webhook-denied"),
        (status(500, 'Internal error: failed calling webhook "a.example.org": refused'), Transient, "webhook-away"),
        (status(403, 'pods "x" is forbidden: exceeded quota: q'), Transient, "quota"),
        (
            status(403, 'pods "x" is forbidden: failed quota: q: must specify limits.cpu'),
            Permanent,
            "quota-wants-sizes",
        ),
    ],
)
async def test_what_the_api_refuses_is_tried_again_only_where_that_may_help(
    api: FakeKubernetes, backend: Any, answer: Any, error: type[Exception], code: str
) -> None:
    api.fail["create", "pods"] = [answer]
    with pytest.raises(error) as told:
        await backend.create(SPEC)
    assert code_of(str(told.value)) == code
