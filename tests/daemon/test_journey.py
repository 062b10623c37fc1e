"""One run's line: all the way, and with every stage failing, hanging and being called off."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from flowgroup.daemon.cluster import ClusterFailed
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.ids import AttemptId, ClusterName, RunId, made_by, new_attempt
from flowgroup.model.runs import Cancelled, Crashed, DueRun, GivenBack, SentRun
from tests.fakes.prefect_api import FakePrefect
from tests.fakes.world import OWNER, Line, World, line

pytestmark = pytest.mark.looptime


async def due(at: Line) -> DueRun:
    (run,) = await at.api.due(limit=10, before=datetime.now(UTC) + timedelta(seconds=60))
    return run


def one_run(**deployment: object) -> World:
    fake = FakePrefect()
    fake.add_run(fake.add_deployment(**deployment))
    return World(fake)


def nothing_is_kept(at: Line) -> None:
    assert at.slots.held == frozenset()
    assert at.world.leases == set()
    assert at.world.turns == set()
    assert not at.cancels.under_way


async def test_a_run_goes_all_the_way_and_its_engine_has_the_last_word() -> None:
    async with line(one_run()) as at:
        run = await due(at)
        assert await at.journeys.carry(run) == 0.0
        assert at.world.trail == ["sent", "watched", "watched", "closed"]
        assert at.world.fake.states(run.id) == ["SCHEDULED", "PENDING"]
        (attempt,) = at.world.given
        assert made_by(OWNER, attempt)
        assert at.world.closed == at.world.forgotten == [attempt]
        nothing_is_kept(at)


async def test_a_run_on_a_warm_cluster_costs_one_call_besides_what_is_cached() -> None:
    world = one_run()
    fake = world.fake
    fake.add_run(next(iter(fake.deployments)))
    async with line(world) as at:
        one, two = await at.api.due(limit=10, before=datetime.now(UTC) + timedelta(seconds=60))
        await at.journeys.carry(one)
        fake.calls.clear()
        await at.journeys.carry(two)
        assert fake.calls == [f"POST /flow_runs/{two.id}/set_state"]


async def test_a_run_that_has_a_journey_gets_no_second_one() -> None:
    async with line(one_run()) as at:
        run = await due(at)
        await asyncio.gather(*(at.journeys.carry(run) for _ in range(5)))
        assert len(at.world.given) == 1


async def test_without_a_slot_a_run_stays_due() -> None:
    async with line(one_run(), slots=1) as at:
        run = await due(at)
        with at.slots.hold(RunId("another")):
            await at.journeys.carry(run)
        assert at.world.fake.states(run.id) == ["SCHEDULED"]


async def test_a_run_whose_turn_it_is_not_stays_due_and_holds_nothing() -> None:
    world = one_run(job_variables={"mode": "exclusive"})
    world.is_busy = True
    async with line(world) as at:
        run = await due(at)
        await at.journeys.carry(run)
        assert world.fake.states(run.id) == ["SCHEDULED"]
        nothing_is_kept(at)


async def test_a_run_that_another_agent_has_is_left_to_it() -> None:
    async with line(one_run()) as at:
        run = await due(at)
        at.world.fake.put_state(run.id, "PENDING", transition_id="theirs")
        assert await at.journeys.carry(run) > 0
        assert at.world.trail == []
        nothing_is_kept(at)


@pytest.mark.parametrize("what", ["GET /deployments", "GET /flows", "GET /work_pools", "set_state", "GET /flow_runs"])
@pytest.mark.parametrize("how", [500, "html", 401])
async def test_a_trouble_before_the_claim_puts_the_run_down(what: str, how: int | str) -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        world.fake.fail(what, how, times=1000)
        if what == "GET /flow_runs":
            world.fake.fail("set_state", 500, times=1000)
        assert await at.journeys.carry(run) > 0
        assert world.fake.states(run.id) == ["SCHEDULED"]
        assert world.trail == []
        nothing_is_kept(at)


async def test_a_claim_is_tried_again_until_the_api_answers() -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        world.fake.fail("set_state", 503, times=3)
        await at.journeys.carry(run)
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING"]
        assert len(world.given) == 1


async def test_a_claim_whose_answer_was_lost_is_carried_on() -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        world.fake.fail("set_state", "lost")
        await at.journeys.carry(run)
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING"]
        assert len(world.given) == 1


async def test_a_trouble_that_passes_after_the_claim_is_waited_out_in_place() -> None:
    world = one_run()
    world.fail_at, world.failures = "sent", 3
    async with line(world) as at:
        run = await due(at)
        await at.journeys.carry(run)
        assert world.trail.count("sent") == 4
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING"]


async def test_what_a_cluster_waits_for_is_in_the_message_of_the_run_that_waited_too_long() -> None:
    world = one_run()
    world.hang_at, world.waits_for = "sent", "the worker's pod cannot be scheduled: 0/1 nodes."
    async with line(world) as at:
        run = await due(at)
        await at.journeys.carry(run)
        assert "FLOWGROUP_CLUSTER_TIMEOUT_S): the worker's pod cannot be scheduled: 0/1 nodes." in world.fake.message(
            run.id
        )


async def test_a_cluster_that_does_not_come_in_time_gives_the_run_back() -> None:
    world = one_run()
    world.hang_at = "sent"
    async with line(world) as at:
        run = await due(at)
        await at.journeys.carry(run)
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING", "SCHEDULED"]
        assert "within 60 s (FLOWGROUP_CLUSTER_TIMEOUT_S): cluster etl-" in world.fake.message(run.id)
        nothing_is_kept(at)


@pytest.mark.parametrize(
    ("trouble", "state", "said"),
    [
        (Transient("the store is away"), "SCHEDULED", "the store is away"),
        (Permanent("the image is not there"), "CRASHED", "the image is not there"),
        (Refused("the bundle is not there"), "CRASHED", "the bundle is not there"),
        (ZeroDivisionError("division by zero"), "CRASHED", "ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("stage", ["sent", "watched"])
async def test_no_trouble_after_the_claim_is_lost(stage: str, trouble: Exception, state: str, said: str) -> None:
    world = one_run()
    world.fail_at, world.trouble = stage, trouble
    async with line(world) as at:
        run = await due(at)
        await at.journeys.carry(run)
        is_said = stage == "sent" and isinstance(trouble, Transient)  # in the Pending state, while it is tried again
        waited = ["PENDING"] if is_said else []
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING", *waited, state]
        assert said in world.fake.message(run.id)
        nothing_is_kept(at)


@pytest.mark.parametrize("outage", [503, 401, "lost"])
async def test_an_outage_while_telling_is_a_pause(outage: int | str) -> None:
    world = one_run()
    world.outcome = Crashed("it fell over")
    async with line(world) as at:
        run = await due(at)
        world.fake.fail("GET /flow_run_states", outage, times=20)
        world.fake.fail("GET /flow_runs", outage, times=20)
        await at.journeys.carry(run)
        assert world.fake.states(run.id)[-1] == "CRASHED"
        assert world.fake.message(run.id) == "it fell over"
        nothing_is_kept(at)


@pytest.mark.parametrize("stage", ["sent", "watched"])
async def test_a_cancellation_ends_the_run_at_every_stage(stage: str) -> None:
    world = one_run()
    world.hang_at = stage
    async with line(world) as at:
        run = await due(at)
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(10)
        world.fake.put_state(run.id, "CANCELLING")
        assert at.cancels.ask(run.id)
        began = asyncio.get_running_loop().time()
        await journey
        assert asyncio.get_running_loop().time() - began <= 5
        assert world.fake.states(run.id)[-2:] == ["CANCELLING", "CANCELLED"]
        nothing_is_kept(at)


@pytest.mark.parametrize("stage", ["sent", "watched", "closed"])
async def test_a_daemon_that_stops_keeps_nothing_and_gives_back_what_no_driver_has(stage: str) -> None:
    world = one_run()
    world.hang_at = stage
    async with line(world) as at:
        run = await due(at)
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(10)
        assert at.slots.held == {run.id}
        journey.cancel()
        with pytest.raises(asyncio.CancelledError):
            await journey
        expected = ["SCHEDULED", "PENDING"] + (["SCHEDULED"] if stage == "sent" else [])
        assert world.fake.states(run.id) == expected
        nothing_is_kept(at)


async def test_a_daemon_that_stops_in_a_claim_gives_the_run_back() -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        await at.api.deployment(run.deployment_id, "v1")  # type: ignore[arg-type]
        await at.api.template()
        journey = asyncio.create_task(at.journeys.carry(run))
        while "PENDING" not in world.fake.states(run.id):
            await asyncio.sleep(0)
        journey.cancel()
        with pytest.raises(asyncio.CancelledError):
            await journey
        assert world.fake.states(run.id) == ["SCHEDULED", "PENDING", "SCHEDULED"]
        assert world.given == set()
        nothing_is_kept(at)


async def test_a_refused_deployment_is_said_in_the_runs_state() -> None:
    async with line(one_run(job_variables={"workers": -1})) as at:
        run = await due(at)
        await at.journeys.carry(run)
        assert at.world.fake.states(run.id) == ["SCHEDULED", "PENDING", "CRASHED"]
        assert "workers" in at.world.fake.message(run.id)
        assert at.world.trail == ["closed"]


async def test_a_run_whose_deployment_is_gone_says_so() -> None:
    fake = FakePrefect()
    run_id = fake.add_run(None)
    async with line(World(fake)) as at:
        await at.journeys.carry(await due(at))
        assert "has no deployment" in fake.message(run_id)


async def test_the_deployments_slot_is_kept_while_the_cluster_boots_and_then_left_to_the_engine() -> None:
    world = one_run(concurrency_limit=1)
    world.hang_at = "sent"
    async with line(world, cluster_timeout_s=1000) as at:
        run = await due(at)
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(650)  # a cluster that takes ten minutes; the API gives the slot for five
        assert len(world.fake.renewed) == 6
        at.cancels.ask(run.id)
        await journey
        await asyncio.sleep(500)
        assert len(world.fake.renewed) == 6


async def test_a_run_of_a_former_daemon_is_carried_on_even_if_all_slots_are_held() -> None:
    world = one_run(concurrency_limit=1)
    world.outcome = Crashed("it fell over")
    async with line(world, slots=1) as at:
        run = await due(at)
        attempt = new_attempt(OWNER, uuid.uuid4())
        await at.api.claim(run, attempt)
        with at.slots.hold(RunId("another")):
            await at.journeys.resume(SentRun(run.id, attempt, ClusterName("c")))
        assert world.fake.states(run.id)[-1] == "CRASHED"
        assert world.forgotten == [attempt]
        nothing_is_kept(at)


@pytest.mark.parametrize(
    ("now", "details", "outcome", "then"),
    [
        ("COMPLETED", {}, Crashed("x"), None),
        ("FAILED", {}, Cancelled("x"), None),
        ("RUNNING", {}, Crashed("x"), "CRASHED"),
        ("RUNNING", {}, Cancelled("x"), "CANCELLED"),
        ("RUNNING", {}, GivenBack("x"), "CRASHED"),
        ("PENDING", {"name": "InfrastructurePending"}, GivenBack("x"), "SCHEDULED"),
        ("CANCELLING", {}, Crashed("x"), "CANCELLED"),
        ("CANCELLING", {}, GivenBack("x"), "CANCELLED"),
        ("SCHEDULED", {"name": "AwaitingRetry"}, Crashed("x"), None),
        ("PAUSED", {"pause_reschedule": True}, Crashed("x"), None),
        ("PAUSED", {"pause_reschedule": False}, Crashed("x"), "CRASHED"),
        ("PAUSED", {"name": "Suspended"}, Crashed("x"), None),
    ],
)
async def test_the_truth_is_told_and_only_where_it_is_missing(
    now: str, details: dict[str, object], outcome: Crashed, then: str | None
) -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        attempt = new_attempt(OWNER, uuid.uuid4())
        await at.api.claim(run, attempt)
        world.fake.put_state(run.id, now, **details)  # type: ignore[arg-type]
        before = world.fake.states(run.id)
        await at.journeys.teller.tell(run.id, attempt, outcome)
        assert world.fake.states(run.id) == before + ([then] if then else [])


async def test_a_run_that_slept_until_a_retry_in_a_process_that_died_is_told() -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        attempt = new_attempt(OWNER, uuid.uuid4())
        await at.api.claim(run, attempt)
        world.fake.put_state(run.id, "SCHEDULED", "AwaitingRetry")
        world.fake.runs[run.id]["empirical_policy"] = {"retry_type": "in_process"}
        await at.journeys.teller.tell(run.id, attempt, Crashed("killed"))
        assert world.fake.states(run.id)[-1] == "CRASHED"


async def test_nothing_is_said_about_a_run_that_was_claimed_again() -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        world.fake.put_state(run.id, "PENDING", transition_id="ours")
        world.fake.put_state(run.id, "SCHEDULED")
        world.fake.put_state(run.id, "PENDING", transition_id="theirs")
        before = world.fake.states(run.id)
        await at.journeys.teller.tell(run.id, AttemptId("ours"), Crashed("x"))
        assert world.fake.states(run.id) == before


async def test_sub_flows_of_a_killed_process_end_with_it() -> None:
    world = one_run()
    world.outcome = Crashed("killed by SIGKILL")
    async with line(world) as at:
        run = await due(at)
        child = world.fake.add_run(None, parent_flow_run_id=run.id, work_pool_name=None)
        grandchild = world.fake.add_run(None, parent_flow_run_id=child, work_pool_name=None)
        apart = world.fake.add_run(next(iter(world.fake.deployments)), parent_flow_run_id=run.id, work_pool_name=None)
        for one in (child, grandchild, apart):
            world.fake.put_state(one, "RUNNING")
        await at.journeys.carry(run)
        assert world.fake.states(child)[-1] == world.fake.states(grandchild)[-1] == "CRASHED"
        assert run.id in world.fake.message(child)
        assert "SIGKILL" in world.fake.message(grandchild)
        assert world.fake.states(apart)[-1] == "RUNNING"


async def test_a_daemon_that_stops_while_the_api_is_away_still_ends_soon() -> None:
    world = one_run()
    world.hang_at = "sent"
    async with line(world) as at:
        run = await due(at)
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(10)
        world.fake.fail(".", 503, times=1000)
        began = asyncio.get_running_loop().time()
        journey.cancel()
        with pytest.raises(asyncio.CancelledError):
            await journey
        assert asyncio.get_running_loop().time() - began <= 5
        nothing_is_kept(at)


async def test_what_a_failed_start_script_said_is_in_the_log_of_the_run_that_waited() -> None:
    world = one_run()
    world.fail_at, world.trouble = "sent", ClusterFailed("status 1", ("one", "two"))
    async with line(world) as at:
        run = await due(at)
        await at.journeys.carry(run)
    assert world.fake.states(run.id)[-1] == "CRASHED"
    said = [(entry["name"], entry["message"], entry["flow_run_id"]) for entry in world.fake.logs]
    assert said == [("flowgroup.start_script", text, run.id) for text in ("one", "two")]
    assert world.fake.logs[0]["timestamp"] < world.fake.logs[1]["timestamp"]
