"""That what happens is counted where it happens: a run's latencies, polls, calls, phases of clusters."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from flowgroup import metrics
from flowgroup.daemon.clusters import Clusters
from flowgroup.daemon.drivers import Drivers
from flowgroup.edge import store
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.client import PODS, Client
from flowgroup.errors import Refused, Transient
from flowgroup.model.causes import said
from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.lines import level_name
from flowgroup.model.runs import Crashed
from flowgroup.model.spec import ClusterSpec
from tests.fakes.boots import Boots
from tests.fakes.world import World, line

pytestmark = pytest.mark.looptime


def figure(name: str, **labels: str) -> Callable[[], float]:
    """How much a sample has grown since now."""

    def now() -> float:
        found = [registry.get_sample_value(name, labels) for registry in metrics.ROOMS.values()]
        return next((value for value in found if value is not None), 0.0)

    before = now()
    return lambda: now() - before


async def _carried(world: World) -> None:
    """One run, which was due ten seconds ago."""
    run = world.fake.add_run(world.fake.add_deployment(), in_s=-10.0)
    async with line(world) as at:
        due = await at.api.due(limit=10, before=datetime.now(UTC) + timedelta(seconds=60))
        await at.journeys.carry(next(one for one in due if one.id == run))


async def test_a_runs_start_is_measured_by_whether_its_cluster_was_ready() -> None:
    world = World()
    cold = figure("flowgroup_schedule_to_running_seconds_count", cluster="cold")
    warm = figure("flowgroup_schedule_to_running_seconds_count", cluster="warm")
    late = figure("flowgroup_schedule_to_running_seconds_sum", cluster="cold")
    took = figure("flowgroup_claim_to_running_seconds_sum", cluster="cold")
    started = figure("flowgroup_stage_seconds_count", stage="started")
    await _carried(world)
    assert (cold(), warm(), started()) == (1, 0, 1)
    assert took() >= 1  # a second of the world's
    assert late() >= 10
    await _carried(world)
    assert (cold(), warm()) == (1, 1)


async def test_a_crash_is_counted_by_its_cause() -> None:
    told = figure("flowgroup_runs_undone_total", cause="pod-deleted")
    await _carried(World(outcome=Crashed(said("pod-deleted", who="driver"))))
    assert told() == 1


async def test_clusters_are_counted_by_what_they_are_used_for() -> None:
    drivers = Drivers()
    clusters = Clusters(Boots(drivers, 3.0), drivers, idle_timeout_s=60)
    spec = ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool")
    came = figure("flowgroup_cluster_start_seconds_sum")
    making = asyncio.create_task(clusters.ready(spec))
    await asyncio.sleep(2)
    assert clusters.phases() == {spec.name: "starting"}
    await making
    assert came() == pytest.approx(4, abs=1.1)
    assert clusters.phases() == {spec.name: "idle"}
    with clusters.expect(spec.name, RunId("r"), 60.0):
        assert clusters.phases() == {spec.name: "prewarmed"}
        with clusters.lease(spec.name, RunId("r")):
            assert clusters.phases() == {spec.name: "busy"}
            assert metrics.DAEMON.get_sample_value("flowgroup_clusters", {"phase": "busy"}) == 1
            assert metrics.DAEMON.get_sample_value("flowgroup_clusters", {"phase": "idle"}) == 0


async def test_calls_to_kubernetes_are_counted_by_verb_kind_and_class() -> None:
    answers = [httpx.Response(404, json={}), httpx.Response(503, json={}), httpx.ConnectError("away")]

    async def answer(request: httpx.Request) -> httpx.Response:
        said = answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    labels = {"verb": "list", "resource": "pods"}
    told = {code: figure("flowgroup_kubernetes_requests_total", code=code, **labels) for code in ("4xx", "5xx", "none")}
    timed = figure("flowgroup_kubernetes_request_seconds_count", **labels)
    client = Client(
        Access("https://kube.test", ssl.create_default_context(), "jobs", lambda: "", lambda: ""),
        transport=httpx.MockTransport(answer),
    )
    for _ in range(3):
        with pytest.raises(Exception, match=r"pods|does not answer"):
            await client.listed(PODS, "a=b")
    await client.aclose()
    assert {code: grown() for code, grown in told.items()} == {"4xx": 1, "5xx": 1, "none": 1}
    assert timed() == 3


def test_calls_to_the_store_are_counted_and_a_missing_object_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ok = figure("flowgroup_store_requests_total", operation="head", outcome="ok")
    failed = figure("flowgroup_store_requests_total", operation="put", outcome="failed")
    refused = figure("flowgroup_store_requests_total", operation="get", outcome="refused")
    assert store.head_now("file:///nowhere/at/all") is None
    with pytest.raises(Refused):
        store.get_now("gopher://x/y")

    def away(*_: object) -> None:
        raise Transient("away")

    monkeypatch.setattr(store, "_write", away)
    with pytest.raises(Transient):
        store.put_now("file:///nowhere/x", b"")
    assert (ok(), failed(), refused()) == (1, 1, 1)


def test_levels_of_lines_have_few_names() -> None:
    assert [level_name(level) for level in (-5, 10, 20, 25, 30, 45, 50, 10**9)] == [
        "DEBUG",
        "DEBUG",
        "INFO",
        "INFO",
        "WARNING",
        "ERROR",
        "CRITICAL",
        "CRITICAL",
    ]
