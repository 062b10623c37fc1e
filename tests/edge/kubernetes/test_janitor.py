"""Leases of clusters, and who removes those whose daemon is silent; on the fake API."""

import ssl
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest

from flowgroup.edge.kubernetes import janitor, seen
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.backend import Kubernetes
from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.names import GOOD_FOR_S, MANAGED_BY, RENEWED_AT, Ground
from flowgroup.errors import Transient
from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import KubernetesSettings
from tests.fakes.kubernetes import FakeKubernetes, status

pytestmark = pytest.mark.looptime
MADE_AT = 1795579200.0  # 2026-11-25T04:00:00Z, when everything is made


@pytest.fixture
def api() -> FakeKubernetes:
    return FakeKubernetes()


@pytest.fixture
def client(api: FakeKubernetes) -> Client:
    there = Access("https://kubernetes.test", ssl.create_default_context(), "jobs", lambda: "", lambda: "")
    return Client(there, transport=api.transport)


@pytest.fixture
def backend(client: Client) -> Kubernetes:
    settings = KubernetesSettings(
        image="i", daemon_address="tls://d:1", relay_address="https://r:1", network_policy=False
    )
    return Kubernetes(client, Ground("a pool", "jobs", settings), "key")


def spec(name: str) -> ClusterSpec:
    return ClusterSpec(flow_id=FlowId("f"), flow_name=name, isolation="pool")


def later(api: FakeKubernetes, seconds: float) -> None:
    api.now = format_datetime(datetime.fromtimestamp(MADE_AT + seconds, UTC), usegmt=True)


def noted(api: FakeKubernetes, name: str) -> dict[str, str]:
    annotations: dict[str, str] = api.objects["daskclusters", name]["metadata"]["annotations"]
    return annotations


async def sweep(client: Client, after_s: float = 1800.0) -> list[str]:
    return await janitor.sweep(client, after_s=after_s, again_s=120, operator_timeout_s=30)


async def test_a_renewal_is_the_api_servers_time_and_one_call_a_cluster(
    api: FakeKubernetes, backend: Kubernetes
) -> None:
    names = [(await backend.create(spec(f"flow {number}"))).name for number in range(30)]
    later(api, 600)
    await backend.renew(names)
    for name in names:
        assert noted(api, name)[RENEWED_AT] == "2026-11-25T04:10:00Z"
        assert noted(api, name)[GOOD_FOR_S] == "180"
    assert api.calls("patch", "daskclusters") == 30


async def test_what_is_gone_or_going_is_not_renewed_and_one_trouble_keeps_no_other_back(
    api: FakeKubernetes, backend: Kubernetes
) -> None:
    names = [(await backend.create(spec(f"flow {number}"))).name for number in range(4)]
    gone, going, troubled, well = names
    api.objects["daskclusters", going]["metadata"]["deletionTimestamp"] = api.made
    del api.objects["daskclusters", gone]
    api.fail["patch", "daskclusters"] = [status(503, "later")]
    later(api, 60)
    with pytest.raises(Transient, match="later"):
        await backend.renew(names)
    assert RENEWED_AT not in noted(api, going)
    assert sorted(RENEWED_AT in noted(api, name) for name in (troubled, well)) == [False, True]


@pytest.mark.parametrize(
    ("renewed_s", "now_s", "after_s", "is_left"),
    [
        (None, 1799, 1800, True),
        (None, 1801, 1800, False),  # its daemon died before it renewed anything
        (1000, 2700, 1800, True),
        (1000, 2900, 1800, False),
        (1000, 1100, 10, True),  # three renewals of a minute may be missed, whatever the limit
        (1000, 1300, 10, False),
    ],
)
async def test_a_cluster_goes_when_its_daemon_has_been_silent_for_long(
    api: FakeKubernetes,
    client: Client,
    backend: Kubernetes,
    renewed_s: float | None,
    now_s: float,
    after_s: float,
    is_left: bool,
) -> None:
    made = await backend.create(spec("a flow"))
    if renewed_s is not None:
        later(api, renewed_s)
        await backend.renew([made.name])
    later(api, now_s)
    assert await sweep(client, after_s) == []
    assert (api.names("daskclusters") == [made.name]) is is_left
    assert bool(api.objects) is is_left


@pytest.mark.parametrize("labels", [{}, {MANAGED_BY: "flowgroup"}, {MANAGED_BY: "me", "flowgroup.dev/pool": "p"}])
async def test_clusters_of_others_are_never_touched(
    api: FakeKubernetes, client: Client, labels: dict[str, str]
) -> None:
    api.put("daskclusters", {"metadata": {"name": "theirs", "labels": labels}})
    later(api, 1_000_000)
    await sweep(client)
    assert api.names("daskclusters") == ["theirs"]


async def test_a_daemon_that_is_back_before_the_second_look_keeps_its_clusters(
    api: FakeKubernetes, client: Client, backend: Kubernetes
) -> None:
    kept, _ = [(await backend.create(spec(name))).name for name in ("kept", "lost")]
    later(api, 5000)
    looks = 0

    def renew_between(verb: str, plural: str, _: str) -> None:
        nonlocal looks
        if (verb, plural) == ("list", "daskclusters"):
            looks += 1
            if looks == 2:
                noted(api, kept)[RENEWED_AT] = seen.moment(MADE_AT + 5060)

    api.before = renew_between
    await sweep(client)
    assert api.names("daskclusters") == [kept]


async def test_a_daemon_that_is_back_in_the_last_moment_keeps_its_clusters_too(
    api: FakeKubernetes, client: Client, backend: Kubernetes
) -> None:
    made = await backend.create(spec("kept"))
    later(api, 5000)

    def renew_before_it_is_deleted(verb: str, plural: str, _: str) -> None:
        if (verb, plural) == ("delete", "daskclusters"):
            api.objects["daskclusters", made.name]["metadata"]["resourceVersion"] = "changed"

    api.before = renew_before_it_is_deleted
    assert await sweep(client) == []
    assert api.names("daskclusters") == [made.name]
    assert api.calls("delete", "pods") == 0


async def test_a_cluster_that_its_daemon_was_deleting_is_deleted_without_the_operator_too(
    api: FakeKubernetes, client: Client, backend: Kubernetes
) -> None:
    made = await backend.create(spec("going"))
    api.operator = False
    await client.delete(janitor.DASK_CLUSTERS, made.name, foreground=True)
    later(api, 5000)
    assert await sweep(client) == []
    assert api.objects == {}


async def test_one_that_cannot_be_removed_is_named_and_keeps_no_other_back(
    api: FakeKubernetes, client: Client, backend: Kubernetes
) -> None:
    names = [(await backend.create(spec(f"flow {number}"))).name for number in range(3)]
    later(api, 5000)
    api.fail["delete", "daskclusters"] = [httpx.ConnectError("cut off")]
    (failed,) = await sweep(client)
    assert failed in names
    assert api.names("daskclusters") == [failed]
