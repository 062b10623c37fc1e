"""A cluster whose workers all fail to start: said while nobody has been ready, against a fake API."""

from typing import Any

import httpx
import pytest

from flowgroup.edge.kubernetes.names import ROLE, WORKER
from tests.edge.kubernetes.test_backend import SPEC, api, backend_on, status
from tests.fakes.kubernetes import FakeKubernetes

__all__ = ["api"]
pytestmark = pytest.mark.looptime
FAILED = {
    "name": "worker",
    "restartCount": 1,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 79, "reason": "Error", "message": "no pip here\n"}},
}


def put_worker(api: FakeKubernetes, name: str, *containers: Any) -> None:
    labels = {**api.objects["daskclusters", SPEC.name]["metadata"]["labels"], ROLE: WORKER}
    api.put("pods", {"metadata": {"name": name, "labels": labels}})
    api.set_status(name, phase="Running", containerStatuses=list(containers))


async def test_it_never_will_be_ready_but_a_cluster_that_serves_goes_on(api: FakeKubernetes) -> None:
    backend = backend_on(api)
    await backend.create(SPEC)
    assert await backend.why_never(SPEC.name) is None
    await backend.delete(SPEC.name)
    await backend.create(SPEC)  # of which nothing is known from before
    put_worker(api, "one", FAILED)
    said = str(await backend.why_never(SPEC.name))
    assert "the worker (pod one) ends again and again: its start script failed." in said
    assert "[start-script] Its last lines:\nno pip here" in said
    assert await backend.look(SPEC.name) is None
    await backend.aclose()


async def test_many_runs_that_wait_ask_once_and_what_cannot_be_seen_is_waited_for(api: FakeKubernetes) -> None:
    backend = backend_on(api)
    await backend.create(SPEC)
    put_worker(api, "one", FAILED)
    put_worker(api, "two", {"name": "worker", "state": {"running": {}}, "restartCount": 0})
    api.fail["list", "pods"] = [status(503, "down"), httpx.ConnectError("no")]
    assert await backend.why_never(SPEC.name) is None
    before = api.calls("list", "pods")
    for _ in range(10):
        assert await backend.why_never(SPEC.name) is None
    assert api.calls("list", "pods") - before <= 2
    await backend.aclose()


async def test_a_scheduler_whose_start_script_fails_is_said_by_the_name_of_its_pod_and_its_lines_once(
    api: FakeKubernetes,
) -> None:
    backend = backend_on(api)
    await backend.create(SPEC)
    name = f"{SPEC.name}-scheduler"
    api.set_status(name, phase="Running", containerStatuses=[{**FAILED, "name": "scheduler"}])
    api.logs[name] = "no pip here\n"
    said = str(await backend.look(SPEC.name))
    assert f"the scheduler (pod {name}) ends again and again: its start script failed." in said
    assert said.count("no pip here") == 1
    await backend.aclose()
