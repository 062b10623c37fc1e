"""The backend on a real Kubernetes, with the real Dask operator; only the daemon is missing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from flowgroup.edge.kubernetes.access import access
from flowgroup.edge.kubernetes.backend import Kubernetes
from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.names import Ground
from flowgroup.edge.kubernetes.sizes import Size, Sizes
from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup
from flowgroup.settings import KubernetesSettings
from tests.edge.kubernetes import real
from tests.edge.kubernetes.real import Kubectl, Operator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.filterwarnings("default::ResourceWarning")]

LEFT = (
    "pods",
    "daskclusters",
    "daskworkergroups",
    "deployments",
    "services",
    "configmaps",
    "secrets",
    "networkpolicies",
)
SIZES = Sizes(
    {
        "small": Size(cpu="100m", memory="300Mi"),
        "nowhere": Size(cpu="100m", memory="300Mi", node_selector={"pool": "nowhere"}),
    }
)


@pytest.fixture(scope="module")
def config() -> str:
    return real.kubeconfig()


@pytest.fixture(scope="module")
def kubectl(config: str) -> Iterator[Kubectl]:
    real.install_operators_types(Kubectl(config))
    with real.namespace(config) as made:
        yield made


@pytest.fixture(scope="module")
def operator(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    running = Operator(kubectl, tmp_path_factory.mktemp("operator") / "log")
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def backend(
    kubectl: Kubectl, operator: Operator, config: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Kubernetes]:
    made = _backend(kubectl, monkeypatch)
    yield made
    for found in await made.find():
        await made.delete(found.name)
    await made.aclose()


def _backend(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch, key: str = "key", **more: Any) -> Kubernetes:
    monkeypatch.setenv("KUBECONFIG", kubectl.config)
    settings = KubernetesSettings(
        image=real.IMAGE,
        daemon_address="tls://198.19.255.1:8443",
        relay_address="https://198.19.255.1:4280",
        **{"operator_timeout_s": 10, "pull_timeout_s": 2, **more},
    )
    client = Client(access(), kubectl.namespace)
    return Kubernetes(client, Ground("a pool", kubectl.namespace, settings, SIZES), key)


def spec(**fields: Any) -> ClusterSpec:
    return ClusterSpec(**{"flow_id": FlowId("f"), "flow_name": "my flow", "isolation": "pool", **fields})


async def until(what: Callable[[], Awaitable[bool]], *, timeout_s: float, name: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not await what():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {name}"
        await asyncio.sleep(0.3)


def phases(kubectl: Kubectl) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pod in kubectl.json("get", "pods")["items"]:
        found.setdefault(pod["metadata"]["labels"]["flowgroup.dev/role"], []).append(pod["status"]["phase"])
    return found


async def test_a_cluster_comes_up_is_found_again_and_leaves_nothing(
    backend: Kubernetes, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = WorkerGroup(name="odd", count=1, size="small", dask_resources={"GPU": 1})
    wanted = spec(workers=2, worker_groups=(group,))
    found, again = await asyncio.gather(backend.create(wanted), backend.create(wanted))
    assert found == again

    async def all_run() -> bool:
        seen = await asyncio.to_thread(phases, kubectl)
        assert await backend.look(found.name) is None
        return seen == {"driver": ["Running"], "scheduler": ["Running"], "worker": ["Running"] * 3}

    await until(all_run, timeout_s=120, name="all pods run")
    assert await backend.why_waiting(found.name) is None
    others = _backend(kubectl, monkeypatch)
    assert await others.find() == [found]
    await others.aclose()
    log = kubectl("logs", f"deployment/{found.name}-scheduler")
    assert "Scheduler at" in log
    await until(
        lambda: asyncio.to_thread(
            lambda: kubectl("logs", f"deployment/{found.name}-scheduler").count("Register worker") >= 3
        ),
        timeout_s=60,
        name="all workers are registered",
    )
    await backend.delete(found.name)
    assert {kind: names for kind in LEFT if (names := kubectl.names(kind))} == {}
    assert await backend.find() == []


async def test_a_dead_driver_is_said_with_its_last_lines_and_the_cluster_is_made_anew(
    backend: Kubernetes, kubectl: Kubectl
) -> None:
    made = await backend.create(
        spec(flow_name="dies", driver_size="small", env={"DASK_LOGGING__DISTRIBUTED": "$(HOME)"})
    )

    async def ended() -> bool:  # process 1 of a container hears no signal that it has no handler for
        ends = ("exec", f"{made.name}-driver", "--", "python", "-c", "import os; os.kill(1, 15)")
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(kubectl, *ends)
        return await backend.look(made.name) is not None

    await until(ended, timeout_s=60, name="its end is said")
    reason = str(await backend.look(made.name))
    assert kubectl.json("get", "pod", f"{made.name}-driver")["metadata"]["labels"]["flowgroup.dev/role"] == "driver"
    assert "the driver ended: exit status" in reason
    again = await backend.create(made.spec)
    assert again.secret != made.secret
    assert await backend.look(made.name) is None


async def _is_said(backend: Kubernetes, name: Any) -> bool:
    return await backend.look(name) is not None


async def test_what_cannot_be_placed_or_pulled_is_said_while_it_waits(backend: Kubernetes) -> None:
    placed = await backend.create(spec(flow_name="nowhere", workers=1, worker_size="nowhere"))
    pulled = await backend.create(spec(flow_name="no image", image="localhost/there-is-none:1"))

    async def both() -> bool:
        said = [str(await backend.why_waiting(name)) for name in (placed.name, pulled.name)]
        return "1 of 1 workers: the worker's pod cannot be scheduled" in said[0] and "cannot be pulled" in said[1]

    await until(both, timeout_s=60, name="both are said")
    assert "node" in str(await backend.why_waiting(placed.name))
    assert await backend.look(placed.name) is None


async def test_without_the_operator_a_cluster_is_said_to_be_deaf_and_is_deleted_all_the_same(
    backend: Kubernetes, kubectl: Kubectl, operator: Operator
) -> None:
    if operator.is_foreign:
        pytest.skip("an operator that serves the whole cluster is not ours to stop")
    await until(  # what it made late, of a cluster of another test that was gone before, is the garbage collector's
        lambda: asyncio.to_thread(lambda: not any(map(kubectl.names, LEFT))), timeout_s=30, name="nothing is left"
    )
    made = await backend.create(spec(flow_name="up", workers=1))
    await until(
        lambda: asyncio.to_thread(lambda: phases(kubectl).get("worker") == ["Running"]), timeout_s=90, name="it runs"
    )
    operator.stop()
    try:
        deaf = await backend.create(spec(flow_name="deaf", workers=1))
        await until(lambda: _is_said(backend, deaf.name), timeout_s=60, name="it is said")
        assert "the Dask operator has made no scheduler" in str(await backend.look(deaf.name))
        assert "is it running" in str(await backend.why_waiting(deaf.name))
        await asyncio.gather(backend.delete(made.name), backend.delete(deaf.name))
        assert {kind: names for kind in LEFT if (names := kubectl.names(kind))} == {}
    finally:
        operator.start()


async def test_a_half_made_cluster_is_finished_or_removed(
    backend: Kubernetes, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await backend.create(spec(flow_name="half"))
    kubectl("delete", "pod", f"{made.name}-driver", "--wait=true")
    kubectl("delete", "configmap", made.name)
    assert await backend.create(made.spec) == made
    assert f"pod/{made.name}-driver" in kubectl.names("pods")
    with_another_key = _backend(kubectl, monkeypatch, key="another")
    assert await with_another_key.find() == []
    assert kubectl.names("daskclusters") == []
    await with_another_key.aclose()
