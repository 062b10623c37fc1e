"""Workers come and go on a fake API, with an operator that ends whichever it likes when it counts too many."""

import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.scaling import scale
from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName
from tests.fakes.kubernetes import FakeKubernetes

NAME = ClusterName("c")
GROUP = "c-gpu"
HANDLED = "kopf.zalando.org/last-handled-configuration"


class Operator:
    """What the Dask operator does with a DaskWorkerGroup. `ended` are workers that it chose itself."""

    def __init__(self, api: FakeKubernetes) -> None:
        self.api = api
        self.ended: list[str] = []
        self._made = 0
        worker = {"replicas": 0}
        api.put("daskworkergroups", {"metadata": {"name": GROUP}, "spec": {"cluster": NAME, "worker": worker}})

    @property
    def group(self) -> Any:
        return self.api.objects["daskworkergroups", GROUP]

    @property
    def workers(self) -> list[str]:
        return [name for name in self.api.names("deployments") if name.startswith(GROUP)]

    def act(self, *, makes: int = 1_000, node: str | None = "node") -> None:
        """Handle the number as it is now; `makes` fewer than are missing: it is still at it."""
        wanted = self.group["spec"]["worker"]["replicas"]
        for _ in range(min(makes, wanted - len(self.workers))):
            self._made += 1
            self.put(f"{GROUP}-worker-{self._made:02}", node)
        while len(self.workers) > wanted:
            self.ended.append(self.workers[-1])
            del self.api.objects["deployments", self.workers[-1]]
        if len(self.workers) == wanted:
            said = {"spec": {"worker": {"replicas": wanted}}}
            self.group["metadata"].setdefault("annotations", {})[HANDLED] = json.dumps(said)

    def put(self, name: str, node: str | None) -> None:
        labels = {"dask.org/workergroup-name": GROUP}
        self.api.put("deployments", {"metadata": {"name": name, "labels": labels}})
        uid = self.api.objects["deployments", name]["metadata"]["uid"]
        container = {"env": [{"name": "DASK_WORKER_NAME", "value": name}]}
        spec = {"containers": [container], **({"nodeName": node} if node else {})}
        metadata = {"name": f"{name[:12]}-pod-{uid}", "labels": labels, "ownerReferences": [{"uid": uid}]}
        self.api.put("pods", {"metadata": metadata, "spec": spec})

    def replicas(self) -> int:
        return int(self.group["spec"]["worker"]["replicas"])


@pytest.fixture
def api() -> FakeKubernetes:
    return FakeKubernetes()


@pytest.fixture
def operator(api: FakeKubernetes) -> Operator:
    made = Operator(api)
    made.act()
    return made


@pytest.fixture
async def client(api: FakeKubernetes) -> AsyncIterator[Client]:
    access = Access("https://k8s", ssl.create_default_context(), "jobs", lambda: "token", lambda: "token")
    made = Client(access, transport=api.transport)
    yield made
    await made.aclose()


async def test_more_are_made_by_the_operator_and_those_that_are_retired_are_removed_by_name(
    client: Client, operator: Operator
) -> None:
    assert await scale(client, NAME, "gpu", 4, ())
    operator.act()
    first, second, third, fourth = operator.workers
    assert await scale(client, NAME, "gpu", 2, (third, first, "c-default-worker-01", "c-scheduler"))
    assert operator.workers == [second, fourth]
    assert operator.replicas() == 2
    operator.act()
    assert operator.workers == [second, fourth]
    assert operator.ended == []


async def test_workers_that_are_too_many_but_not_retired_stay(client: Client, operator: Operator) -> None:
    await scale(client, NAME, "gpu", 3, ())
    operator.act()
    assert await scale(client, NAME, "gpu", 0, ())
    assert len(operator.workers) == operator.replicas() == 3


async def test_workers_that_wait_for_a_node_in_vain_go_without_being_retired(
    client: Client, operator: Operator
) -> None:
    await scale(client, NAME, "gpu", 2, ())
    operator.act()
    placed = operator.workers
    await scale(client, NAME, "gpu", 5, ())
    operator.act(node=None)
    assert await scale(client, NAME, "gpu", 1, ())
    assert operator.workers == placed
    assert operator.replicas() == 2


async def test_while_the_operator_is_at_a_larger_number_it_is_never_told_a_smaller_one(
    client: Client, operator: Operator
) -> None:
    await scale(client, NAME, "gpu", 4, ())
    operator.act(makes=2)
    assert not await scale(client, NAME, "gpu", 1, (operator.workers[0],))
    assert operator.replicas() == 4
    operator.act()
    assert await scale(client, NAME, "gpu", 1, (operator.workers[0],))
    operator.act()
    assert operator.ended == []
    assert operator.replicas() == len(operator.workers)


async def test_a_number_that_was_lost_is_set_by_the_next_round(
    client: Client, operator: Operator, api: FakeKubernetes
) -> None:
    await scale(client, NAME, "gpu", 3, ())
    operator.act()
    gone = operator.workers[0]
    api.fail["patch", "daskworkergroups"] = [httpx.ConnectError("no")]
    with pytest.raises(Transient):
        await scale(client, NAME, "gpu", 2, (gone,))
    assert await scale(client, NAME, "gpu", 2, ())
    assert operator.replicas() == 2
    assert await scale(client, NAME, "gpu", 3, ())
    operator.act()
    assert len(operator.workers) == 3


async def test_somebody_elses_change_meanwhile_is_not_overwritten(
    client: Client, operator: Operator, api: FakeKubernetes
) -> None:
    def change(verb: str, plural: str, _: str) -> None:
        if (verb, plural) == ("patch", "daskworkergroups"):
            operator.group["metadata"]["resourceVersion"] = "later"

    api.before = change
    assert not await scale(client, NAME, "gpu", 3, ())
    assert operator.replicas() == 0


async def test_a_group_that_the_operator_has_not_made_yet_is_asked_for_again(client: Client) -> None:
    assert not await scale(client, NAME, "default", 3, ())


async def test_a_number_that_is_right_costs_two_calls_and_changes_nothing(
    client: Client, operator: Operator, api: FakeKubernetes
) -> None:
    await scale(client, NAME, "gpu", 3, ())
    operator.act()
    api.seen.clear()
    assert await scale(client, NAME, "gpu", 3, ())
    assert [call[0] for call in api.seen] == ["get", "list"]
