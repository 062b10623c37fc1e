"""Clusters found, made, ready, leased and gone. Drivers are views that the test moves; time is virtual."""

import asyncio
from collections.abc import Callable

import pytest

from flowgroup.daemon.cluster import ClusterFailed
from flowgroup.daemon.clusters import Clusters
from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.reap import reap
from flowgroup.daemon.wake import Wake
from flowgroup.errors import Transient
from flowgroup.model.clusters import Found
from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.orders import Remark, Status
from flowgroup.model.spec import ClusterSpec
from tests.fakes.boots import Boots, connect

pytestmark = pytest.mark.looptime
ONE, TWO = RunId("one"), RunId("two")


def spec(**fields: object) -> ClusterSpec:
    return ClusterSpec.model_validate({"flow_id": FlowId("f"), "flow_name": "etl", "isolation": "pool", **fields})


def made(
    boot_s: float = 3.0, *, idle_timeout_s: float = 60.0, **callbacks: Callable[[], None]
) -> tuple[Clusters, Boots, Drivers]:
    drivers = Drivers()
    backend = Boots(drivers, boot_s)
    return Clusters(backend, drivers, idle_timeout_s=idle_timeout_s, **callbacks), backend, drivers


async def test_first_runs_that_come_together_make_one_cluster() -> None:
    clusters, backend, _ = made()
    await asyncio.gather(*(clusters.ready(spec()) for _ in range(20)))
    assert len(backend.made) == 1


async def test_two_specs_are_two_clusters_however_runs_alternate() -> None:
    clusters, backend, _ = made()
    for number in range(20):
        await clusters.ready(spec(workers=number % 2))
    assert len(backend.made) == 2


async def test_it_is_ready_when_its_driver_says_so_and_not_before() -> None:
    clusters, _, drivers = made(boot_s=1000)
    task = asyncio.create_task(clusters.ready(spec()))
    await asyncio.sleep(50)
    connect(drivers.view(spec().name), Status(ready=False))
    await asyncio.sleep(50)
    assert not task.done()
    connect(drivers.view(spec().name), Status(ready=True))
    assert (await task).name == spec().name


async def test_a_cluster_in_trouble_fails_early_and_the_next_run_gets_a_new_one() -> None:
    clusters, backend, _ = made()
    backend.trouble = "the start script ended with status 1"
    with pytest.raises(ClusterFailed, match="start script"):
        await clusters.ready(spec())
    backend.trouble = None
    await clusters.ready(spec())
    assert len(backend.made) == 2


async def test_one_that_was_just_made_is_not_looked_at_and_one_whose_driver_says_much_is_every_second() -> None:
    clusters, backend, drivers = made(boot_s=0.5)
    await clusters.ready(spec())
    assert backend.looks == 0
    backend.boot_s = 1000
    task = asyncio.create_task(clusters.ready(other := spec(workers=1)))
    await asyncio.sleep(1.1)
    for _ in range(3):
        connect(drivers.view(other.name), Status(ready=False))
        await asyncio.sleep(0.2)
    assert backend.looks == 0
    for _ in range(20):
        connect(drivers.view(other.name), Status(ready=False))
        await asyncio.sleep(0.2)
    assert 3 <= backend.looks <= 5
    backend.dead[other.name] = "no scheduler"
    connect(drivers.view(other.name), Status(ready=False))
    with pytest.raises(ClusterFailed, match="no scheduler"):
        await task


async def test_a_cluster_that_dies_while_it_boots_fails_early_with_the_reason() -> None:
    clusters, backend, _ = made()
    backend.dies = "no space left on device"
    with pytest.raises(ClusterFailed, match="no space left"):
        await clusters.ready(spec())
    assert asyncio.get_running_loop().time() < 10


async def test_a_dead_cluster_is_made_again() -> None:
    clusters, backend, drivers = made()
    await clusters.ready(spec())
    drivers.view(spec().name).line = None
    backend.dead[spec().name] = "killed"
    await clusters.ready(spec())
    assert len(backend.made) == 2
    assert backend.deleted == [spec().name]


async def test_a_driver_that_is_only_away_for_a_moment_is_waited_for() -> None:
    clusters, backend, drivers = made()
    await clusters.ready(spec())
    view = drivers.view(spec().name)
    view.line = None
    task = asyncio.create_task(clusters.ready(spec()))
    await asyncio.sleep(10)
    assert not task.done()
    connect(view, Status(ready=True))
    await task
    assert len(backend.made) == 1


async def test_what_a_former_daemon_left_is_taken_over() -> None:
    clusters, backend, drivers = made()
    backend.clusters[spec().name] = Found(spec().name, spec(), "old secret")
    await clusters.adopt()
    assert clusters.secret_of(spec().name) == "old secret"
    connect(drivers.view(spec().name), Status(ready=True))
    await clusters.ready(spec())
    assert backend.made == []


async def reaping(clusters: Clusters, for_s: float, *, settled: bool = True) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(for_s):
            await reap(clusters, Wake(), lambda: None, settled=lambda: settled)


async def test_nothing_is_taken_away_while_it_is_not_known_what_runs_there() -> None:
    clusters, backend, _ = made()
    backend.clusters[spec().name] = Found(spec().name, spec(), "old secret")
    await clusters.adopt()
    await reaping(clusters, 100, settled=False)
    assert backend.deleted == []
    await reaping(clusters, 5)
    assert backend.deleted == [spec().name]


async def test_a_cluster_lives_while_it_has_a_lease_and_then_for_its_idle_time() -> None:
    clusters, backend, _ = made()
    with clusters.lease(spec().name, ONE, 30):
        await clusters.ready(spec())
        await reaping(clusters, 100)
        with clusters.lease(spec().name, TWO, 30):
            pass
        assert backend.deleted == []
    await reaping(clusters, 29)
    assert backend.deleted == []
    await reaping(clusters, 5)
    assert backend.deleted == [spec().name]
    assert clusters.names() == []


async def test_a_cluster_whose_run_keeps_dask_idle_for_hours_stays() -> None:
    clusters, backend, _ = made()
    with clusters.lease(spec().name, ONE, 1.0):
        await clusters.ready(spec())
        await reaping(clusters, 3 * 3600)
        assert backend.deleted == []
    await reaping(clusters, 3)
    assert backend.deleted == [spec().name]


async def test_a_cluster_for_one_run_goes_at_once() -> None:
    clusters, backend, _ = made()
    own = spec(mode="per-run", run_id="one")
    with clusters.lease(own.name, ONE, 0.0):
        await clusters.ready(own)
    await reaping(clusters, 2.5)
    assert backend.deleted == [own.name]


async def test_a_cluster_that_cannot_be_deleted_now_is_deleted_later() -> None:
    clusters, backend, _ = made()
    with clusters.lease(spec().name, ONE, 0.0):
        await clusters.ready(spec())
    backend.fails = 3
    await reaping(clusters, 20)
    assert backend.deleted == [spec().name]


async def test_a_left_over_cluster_without_runs_goes_after_the_idle_time() -> None:
    clusters, backend, _ = made()
    backend.clusters[spec().name] = Found(spec().name, spec(), "s")
    await clusters.adopt()
    await reaping(clusters, 55)
    assert backend.deleted == []
    await reaping(clusters, 10)
    assert backend.deleted == [spec().name]


async def test_a_cluster_is_not_deleted_under_a_run_that_comes_at_the_same_time() -> None:
    clusters, backend, _ = made()
    with clusters.lease(spec().name, ONE, 0.0):
        await clusters.ready(spec())
    deleting = asyncio.create_task(clusters.delete_if_idle(spec().name))
    await asyncio.sleep(0.5)
    with clusters.lease(spec().name, TWO, 0.0):
        await clusters.ready(spec())
        await deleting
        await reaping(clusters, 10)
        assert spec().name in clusters.names()
    assert len(backend.made) == 2


async def test_an_exclusive_cluster_takes_one_run_at_a_time_and_rings_for_the_next() -> None:
    rings: list[int] = []
    clusters, _, _ = made(on_turn=lambda: rings.append(1))
    own = spec(mode="exclusive")
    with clusters.turn(own, ONE) as first:
        assert first
        with clusters.turn(own, TWO) as second:
            assert not second
        with clusters.lease(own.name, ONE, 60):
            pass
        assert rings == []
    assert rings == [1]
    with clusters.lease(own.name, ONE), clusters.turn(own, TWO) as while_resumed:
        assert not while_resumed
    with clusters.turn(spec(), ONE) as one, clusters.turn(spec(), TWO) as two:
        assert one
        assert two


async def test_clusters_that_never_came_leave_nothing_in_memory() -> None:
    clusters, backend, _ = made()
    backend.fails = 1
    with clusters.lease(spec().name, ONE, 5), pytest.raises(Transient):
        await clusters.ready(spec())
    await reaping(clusters, 10)  # it may have been made all the same
    assert clusters._clusters == {}


async def test_a_failed_start_script_is_told_with_what_it_said() -> None:
    clusters, _, drivers = made(boot_s=1000)
    task = asyncio.create_task(clusters.ready(spec()))
    await asyncio.sleep(5)
    connect(drivers.view(spec().name), Status(ready=False, trouble="status 1", start_log=("one", "two")))
    with pytest.raises(ClusterFailed, match="status 1") as failed:
        await task
    assert failed.value.start_log == ("one", "two")


async def test_the_first_run_is_told_all_of_a_cluster_and_later_ones_what_is_a_warning() -> None:
    clusters, backend, _ = made()
    name = spec().name
    assert await clusters.remarks(name) == ()
    await clusters.ready(spec())
    backend.told = (Remark(text="it is x"), Remark(text="mind", is_warning=True))
    assert [one.text for one in await clusters.remarks(name)] == ["it is x", "mind"]
    backend.told = ()
    assert [one.text for one in await clusters.remarks(name)] == ["mind"]


async def test_a_cluster_that_was_made_without_our_knowing_goes_when_nobody_needs_it() -> None:
    clusters, backend, _ = made()
    backend.is_answer_lost = True
    with clusters.lease(spec().name, ONE, 5.0):
        with pytest.raises(Transient):
            await clusters.ready(spec())
        await reaping(clusters, 30)
        assert backend.deleted == []
    await reaping(clusters, 10)
    assert backend.deleted == [spec().name]
    await reaping(clusters, 30)
    assert backend.deleted == [spec().name]


async def test_a_cluster_that_was_made_without_our_knowing_is_found_by_the_next_try() -> None:
    clusters, backend, _ = made()
    backend.is_answer_lost = True
    with clusters.lease(spec().name, ONE, 5.0):
        with pytest.raises(Transient):
            await clusters.ready(spec())
        backend.is_answer_lost = False
        await clusters.ready(spec())
        await reaping(clusters, 30)
    assert backend.deleted == []


async def test_nothing_is_kept_for_a_run_that_has_just_had_its_cluster() -> None:
    clusters, backend, _ = made()
    with clusters.lease(spec().name, ONE, 5.0):
        await clusters.ready(spec())
    with clusters.expect(spec().name, ONE, 300.0) as taken:
        assert taken.is_set()
        await reaping(clusters, 10)
        assert backend.deleted == [spec().name]
    await asyncio.sleep(60)  # it was given back, and comes again
    with clusters.expect(spec().name, ONE, 300.0) as taken:
        assert not taken.is_set()


async def test_a_cluster_that_cannot_be_seen_is_not_dead() -> None:
    clusters, backend, _ = made()
    await clusters.ready(spec())
    backend.dead[spec().name] = "killed"
    backend.is_unseen = True
    assert await clusters.look(spec().name) is None
    backend.is_unseen = False
    assert await clusters.look(spec().name) == "killed"
