"""Clusters that are ready when their runs come. Time is virtual, for the API too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from flowgroup.daemon.caps import Caps, Limits
from flowgroup.daemon.clusters import Clusters
from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.placement import Policy
from flowgroup.daemon.prewarm import Ahead, Prewarm, lead_s
from flowgroup.daemon.reap import reap
from flowgroup.daemon.wake import Wake
from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import PrefectSettings
from tests.fakes.boots import Boots
from tests.fakes.prefect_api import FakePrefect

pytestmark = pytest.mark.looptime
_NO_LIMITS = Limits()
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def seconds() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Setting:
    fake: FakePrefect
    api: Prefect
    clusters: Clusters
    backend: Boots
    held: set[RunId] = field(default_factory=set)

    def flow(self, name: str = "etl", **job_variables: Any) -> str:
        return self.fake.add_deployment(flow=name, job_variables=job_variables)

    def names(self) -> set[str]:
        return {name.rsplit("-", 1)[0] for name in self.clusters.names()}

    async def at(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - seconds()))

    async def boot(self, boot_s: float) -> None:
        """Let one cluster have been made lately, so that it is known how long that takes."""
        self.backend.boot_s = boot_s
        spec = ClusterSpec(flow_id=FlowId("f"), flow_name="lately", isolation="pool")
        await self.clusters.ready(spec)
        with self.clusters.lease(spec.name, RunId("lately"), 0.0):
            pass
        while self.clusters.names():
            await asyncio.sleep(1)

    @contextlib.contextmanager
    def journey(self, run: str) -> Any:
        """The run's own journey has begun, and has its cluster."""
        self.held.add(RunId(run))
        self.fake.put_state(run, "PENDING")
        with self.clusters.lease(self.clusters.names()[0], RunId(run), 5.0):
            yield
        self.held.discard(RunId(run))


@asynccontextmanager
async def warming(
    *, boot_s: float = 3.0, lately_s: float | None = None, limits: Limits = _NO_LIMITS, **ahead: Any
) -> AsyncIterator[Setting]:
    fake, drivers, bell = FakePrefect(now=lambda: BEGAN + timedelta(seconds=seconds())), Drivers(), Wake()
    backend = Boots(drivers, boot_s)
    clusters = Clusters(backend, drivers, idle_timeout_s=5, on_free=bell.ring)
    settings = PrefectSettings(api_url="http://prefect.test/api")
    async with prefect(settings, "pool", transport=httpx.ASGITransport(fake)) as api:
        await api.ensure_pool()
        at = Setting(fake, api, clusters, backend)
        reaping = asyncio.create_task(reap(clusters, bell, lambda: None))
        if lately_s is not None:
            await at.boot(lately_s)
            backend.boot_s = boot_s
        prewarm = Prewarm(
            api,
            clusters,
            Caps(limits, clusters, backend.takes),
            Policy("pool", idle_timeout_s=5.0),
            Ahead(**{"within_s": 60.0, "clusters": 10, **ahead}),
            lambda: frozenset(at.held),
            now=fake.now,
        )
        task = asyncio.create_task(prewarm.run())
        try:
            yield at
        finally:
            for one in (task, reaping):
                one.cancel()
            await asyncio.gather(task, reaping, return_exceptions=True)
            assert task.cancelled()


@pytest.mark.parametrize(("slowest_s", "lead"), [(None, 60.0), (0.0, 5.0), (4.0, 11.0), (30.0, 50.0), (100.0, 60.0)])
def test_a_cluster_is_made_earlier_the_longer_clusters_took_lately(slowest_s: float | None, lead: float) -> None:
    assert lead_s(slowest_s, 60.0) == lead


async def test_a_cluster_is_ready_before_its_run_comes_and_is_not_made_much_sooner() -> None:
    async with warming(lately_s=10.0) as at:
        began = seconds()
        at.fake.add_run(at.flow(), in_s=100)
        await at.at(began + 100 - 23)
        assert at.names() == set()
        await at.at(began + 100 - 5)
        assert at.names() == {"etl"}
        (name,) = at.clusters.names()
        status = at.backend.drivers.view(name).status
        assert status is not None
        assert status.ready


async def test_while_nothing_is_known_of_how_long_it_takes_all_that_is_allowed_is_used() -> None:
    async with warming() as at:
        at.fake.add_run(at.flow(), in_s=100)
        await at.at(38)
        assert at.names() == set()
        await at.at(55)
        assert at.names() == {"etl"}


async def test_the_cluster_is_kept_until_its_run_has_it_and_goes_idle_after_that_run() -> None:
    async with warming() as at:
        run = at.fake.add_run(at.flow(), in_s=40)
        await at.at(38)  # much longer than its idle time
        assert at.names() == {"etl"}
        with at.journey(run):
            await at.at(90)
            assert at.names() == {"etl"}
        await at.at(93)
        assert at.names() == {"etl"}
        await at.at(100)
        assert at.names() == set()
        assert len(at.backend.made) == 1


async def test_a_cluster_that_would_be_reaped_shortly_before_a_run_is_kept() -> None:
    async with warming(lately_s=1.0) as at:
        began = seconds()
        deployment = at.flow()
        first = at.fake.add_run(deployment, in_s=8)
        await at.at(began + 7)
        at.fake.add_run(deployment, in_s=50)
        with at.journey(first):
            await asyncio.sleep(15)
        await at.at(began + 50)
        assert at.names() == {"etl"}
        assert len(at.backend.made) == 2  # with the one of lately


@pytest.mark.parametrize("how", ["deleted", "cancelled", "moved far away"])
async def test_a_run_that_does_not_come_any_more_keeps_nothing(how: str) -> None:
    async with warming() as at:
        run = at.fake.add_run(at.flow(), in_s=55)
        await at.at(15)
        assert at.names() == {"etl"}
        if how == "deleted":
            del at.fake.runs[run]
        elif how == "cancelled":
            at.fake.put_state(run, "CANCELLED")
        else:
            moment = (at.fake.now() + timedelta(hours=1)).isoformat()
            at.fake.put_state(run, "SCHEDULED", scheduled_time=moment)
        await at.at(40)
        assert at.names() == set()


async def test_a_run_that_is_moved_a_little_has_its_cluster_all_the_same() -> None:
    async with warming() as at:
        run = at.fake.add_run(at.flow(), in_s=30)
        await at.at(15)
        moment = (at.fake.now() + timedelta(seconds=40)).isoformat()
        at.fake.put_state(run, "SCHEDULED", scheduled_time=moment)
        await at.at(54)
        assert at.names() == {"etl"}
        assert len(at.backend.made) == 1


async def test_a_run_that_does_not_begin_in_its_time_keeps_its_cluster_for_a_minute() -> None:
    async with warming() as at:
        at.fake.add_run(at.flow(), in_s=20)
        await at.at(75)
        assert at.names() == {"etl"}
        await at.at(105)
        assert at.names() == set()


async def test_no_more_clusters_are_made_ahead_than_allowed_and_the_next_ones_come_first() -> None:
    async with warming(clusters=3) as at:
        runs = {n: at.fake.add_run(at.flow(f"flow {n}"), in_s=30 + n) for n in reversed(range(8))}
        at.fake.add_run(at.flow("flow 0"), in_s=31.5)  # shares a cluster
        await at.at(20)
        assert at.names() == {"flow-0", "flow-1", "flow-2"}
        with contextlib.ExitStack() as stack:
            stack.enter_context(at.journey(runs[0]))
            await at.at(35)
            assert "flow-3" not in at.names()  # flow 0 has another run to come
        at.fake.put_state(runs[1], "CANCELLED")
        del at.fake.runs[runs[2]]


async def test_a_cluster_whose_run_has_come_counts_no_more() -> None:
    async with warming(clusters=1) as at:
        first, _ = (at.fake.add_run(at.flow(f"flow {n}"), in_s=30 + n) for n in range(2))
        await at.at(20)
        assert at.names() == {"flow-0"}
        with at.journey(first):
            await at.at(31)
            assert at.names() == {"flow-0", "flow-1"}


async def test_a_cluster_for_one_run_is_made_ahead_under_the_name_that_the_run_will_ask_for() -> None:
    async with warming() as at:
        deployment = at.flow(mode="per-run")
        one, _two = (at.fake.add_run(deployment, in_s=30) for _ in range(2))
        await at.at(15)
        assert len(at.clusters.names()) == 2
        assert {at.backend.clusters[name].spec.run_id for name in at.clusters.names()} == {one, _two}


async def test_a_cluster_that_takes_one_run_at_a_time_is_not_taken_by_one_that_comes() -> None:
    async with warming() as at:
        at.fake.add_run(at.flow(mode="exclusive"), in_s=30)
        await at.at(15)
        (name,) = at.clusters.names()
        with at.clusters.turn(at.backend.clusters[name].spec, RunId("now")) as is_ours:
            assert is_ours


@pytest.mark.parametrize("job_variables", [{"workers": -1}, {"nonsense": 1}])
async def test_a_run_that_will_be_refused_is_left_to_its_journey(job_variables: dict[str, Any]) -> None:
    async with warming() as at:
        at.fake.add_run(at.flow("bad", **job_variables), in_s=20)
        at.fake.add_run(None, in_s=20)
        gone = at.flow("gone")
        at.fake.add_run(gone, in_s=20)
        del at.fake.deployments[gone]
        at.fake.add_run(at.flow("good"), in_s=25)
        await at.at(15)
        assert at.names() == {"good"}


async def test_a_cluster_that_cannot_be_made_is_said_once_and_others_are_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with warming() as at:
        at.backend.fails = 1
        at.fake.add_run(at.flow("one"), in_s=40)
        at.fake.add_run(at.flow("two"), in_s=41)
        await at.at(39)
        assert len(at.names()) == 1
    assert capsys.readouterr().out.count("cluster_not_prewarmed") == 1


async def test_an_api_that_does_not_answer_is_said_once_and_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    async with warming() as at:
        at.fake.fail("get_scheduled", 503, times=3)
        at.fake.add_run(at.flow(), in_s=55)
        await at.at(45)
        assert at.names() == {"etl"}
        at.fake.fail("get_scheduled", 503, times=1000)
        await at.at(100)  # what is kept stays, for its minute
        assert at.names() == {"etl"}
    assert capsys.readouterr().out.count("[warning  ] coming_runs_not_asked") == 2


async def test_it_asks_seldom_and_never_for_what_is_due_already() -> None:
    async with warming() as at:
        for _ in range(300):
            at.fake.add_run(at.flow("late"), in_s=-10)
        at.fake.add_run(at.flow(), in_s=40)
        await at.at(59)
        assert at.fake.count("get_scheduled") <= 7
        assert at.names() == {"etl"}


async def test_a_daemon_that_stops_while_a_cluster_is_being_made_knows_it_afterwards() -> None:
    async with warming() as at:
        at.fake.add_run(at.flow(), in_s=40)
        while not at.fake.count("GET /deployments"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # the backend takes a second
        assert at.backend.made == []
    await asyncio.sleep(2)
    assert at.clusters.names() == at.backend.made
    assert len(at.backend.made) == 1


async def test_nothing_is_made_for_a_run_whose_journey_is_over() -> None:
    async with warming() as at:
        run = at.fake.add_run(at.flow(), in_s=1.0)
        at.held.add(RunId(run))  # its journey begins when it has just been seen, ahead of its time
        await at.at(5)
        at.fake.put_state(run, "COMPLETED")
        at.held.clear()
        await at.at(60)
        assert at.backend.made == []


async def test_clusters_made_ahead_count_and_wait_for_room_that_a_cap_leaves() -> None:
    async with warming(lately_s=3.0, limits=Limits(pool={"clusters": 1})) as at:
        first = at.fake.add_run(at.flow("one"), in_s=100.0)
        at.fake.add_run(at.flow("two"), in_s=122.0)
        await asyncio.sleep(99)
        with at.journey(first):
            await asyncio.sleep(13)  # it is time for the second one's by now
            assert len(at.backend.made) - 1 == len(at.clusters.names()) == 1  # and the one of lately
        async with asyncio.timeout(15):
            while at.names() != {"two"}:
                await asyncio.sleep(0.5)
