"""Failures of the infrastructure: tried again up to a limit, counted in the run's own history. Time is virtual."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from flowgroup.daemon.again import failure, verdict
from flowgroup.daemon.cluster import ClusterFailed
from flowgroup.errors import FlowgroupError, NoRoom, Permanent, Transient
from flowgroup.model.runs import Crashed, DueRun, GivenBack, Lost, Outcome
from tests.fakes.prefect_api import FakePrefect
from tests.fakes.world import Line, World, line

pytestmark = pytest.mark.looptime


def one_run(**deployment: object) -> World:
    fake = FakePrefect()
    fake.add_run(fake.add_deployment(**deployment))
    return World(fake)


async def due(at: Line) -> DueRun:
    (run,) = await at.api.due(limit=10, before=datetime.now(UTC) + timedelta(hours=1))
    return run


async def carried(world: World, times: int, retries: int = 3) -> None:
    """Carry the run so often, each time by another daemon, for as long as it is offered."""
    for _ in range(times):
        async with line(world, retries=retries) as at:
            for run in await at.api.due(limit=10, before=datetime.now(UTC) + timedelta(hours=1)):
                await at.journeys.carry(run)


def states(world: World) -> list[tuple[str, str]]:
    (run,) = world.fake.runs
    return [(state["type"], state["name"]) for state in world.fake.history[run]]


TRY = [("PENDING", "Pending"), ("SCHEDULED", "AwaitingInfrastructure")]


async def test_a_cluster_that_fails_twice_is_tried_a_third_time_and_the_run_goes_on() -> None:
    world = one_run()
    world.fail_at, world.trouble, world.failures = "sent", ClusterFailed("node lost", may_pass=True), 2
    await carried(world, 5)
    assert states(world) == [("SCHEDULED", "Scheduled"), *TRY, *TRY, ("PENDING", "Pending")]
    said = [entry["message"] for entry in world.fake.logs]
    assert said == [
        "Attempt 1 of 4 failed, tried again in 10 s: node lost",
        "Attempt 2 of 4 failed, tried again in 20 s: node lost",
    ]


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_after_the_limit_the_run_ends_with_all_causes_whichever_daemon_tried(retries: int) -> None:
    world = one_run()
    world.fail_at, world.trouble = "sent", ClusterFailed("the driver died", may_pass=True)
    await carried(world, 10, retries)
    (run,) = world.fake.runs
    assert states(world) == [("SCHEDULED", "Scheduled"), *TRY * retries, ("PENDING", "Pending"), ("CRASHED", "Crashed")]
    assert world.fake.message(run).count("the driver died") == retries + 1
    assert world.fake.count("set_state") == 2 * (retries + 1)


async def test_the_deployment_says_how_often() -> None:
    world = one_run(job_variables={"infrastructure_retries": 1})
    world.fail_at, world.trouble = "sent", ClusterFailed("the driver died", may_pass=True)
    await carried(world, 10)
    assert states(world)[1:] == [*TRY, ("PENDING", "Pending"), ("CRASHED", "Crashed")]


async def test_a_run_that_somebody_starts_again_has_all_its_tries_again() -> None:
    world = one_run(job_variables={"infrastructure_retries": 1})
    world.fail_at, world.trouble = "sent", ClusterFailed("the driver died", may_pass=True)
    await carried(world, 3)
    (run,) = world.fake.runs
    before = len(states(world))
    world.fake.put_state(run, "SCHEDULED", "AwaitingRetry", scheduled_time=datetime.now(UTC).isoformat())
    await carried(world, 5)
    assert states(world)[before + 1 :] == [*TRY, ("PENDING", "Pending"), ("CRASHED", "Crashed")]


async def test_what_would_end_the_same_way_again_is_not_tried_again() -> None:
    world = one_run()
    world.fail_at, world.trouble = "sent", ClusterFailed("the image is not there")
    await carried(world, 5)
    assert states(world)[1:] == [("PENDING", "Pending"), ("CRASHED", "Crashed")]


async def test_a_quota_is_waited_for_without_end_and_said_in_the_runs_state() -> None:
    world = one_run()
    world.fail_at, world.trouble = "sent", NoRoom("exceeded quota: pods")
    await carried(world, 8)
    (run,) = world.fake.runs
    assert {state[0] for state in states(world)} == {"SCHEDULED", "PENDING"}
    assert ("SCHEDULED", "AwaitingInfrastructure") not in states(world)
    waiting = [one for one in world.fake.history[run] if one["name"] == "InfrastructurePending"]
    assert waiting
    assert waiting[0]["message"] == "exceeded quota: pods"
    assert "exceeded quota" in world.fake.message(run)


RUNNING_TABLE = [
    (True, True, ("SCHEDULED", "AwaitingInfrastructure")),
    (True, False, ("CRASHED", "Crashed")),
    (False, True, ("CRASHED", "Crashed")),
]


@pytest.mark.parametrize(("was_taken", "retry_evicted", "then"), RUNNING_TABLE)
async def test_under_user_code_only_an_eviction_and_only_where_it_is_wished_is_tried_again(
    was_taken: bool, retry_evicted: bool, then: tuple[str, str]
) -> None:
    world = one_run(job_variables={"retry_evicted": retry_evicted, "infrastructure_retries": 2})
    world.outcome = Lost("evicted", was_taken)
    async with line(world) as at:
        run = await due(at)
        world.hang_at = "sent"
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(5)
        world.fake.put_state(run.id, "RUNNING")
        child = world.fake.add_run(None, parent_flow_run_id=run.id, work_pool_name=None)
        world.fake.put_state(child, "RUNNING")
        attempt = world.fake.history[run.id][1]["state_details"]["transition_id"]
        await at.journeys.teller.tell(run.id, attempt, world.outcome)
        last = world.fake.runs[run.id]["state"]
        assert (last["type"], last["name"]) == then
        assert world.fake.states(child)[-1] == "CRASHED"
        journey.cancel()
        await asyncio.gather(journey, return_exceptions=True)


async def test_evictions_have_the_same_limit() -> None:
    world = one_run(job_variables={"retry_evicted": True, "infrastructure_retries": 2})
    world.outcome = Lost("evicted", was_taken=True)
    (run,) = world.fake.runs
    original = world.step

    async def step(name: str) -> None:
        if name == "watched" and world.fake.runs[run]["state"]["type"] == "PENDING":
            world.fake.put_state(run, "RUNNING")
        await original(name)

    world.step = step  # type: ignore[method-assign]
    await carried(world, 10)
    assert [name for _, name in states(world)].count("AwaitingInfrastructure") == 2
    assert states(world)[-1] == ("CRASHED", "Crashed")


async def test_a_run_that_is_being_cancelled_is_not_tried_again() -> None:
    world = one_run()
    world.outcome = Lost("the driver died")
    async with line(world) as at:
        run = await due(at)
        world.fake.put_state(run.id, "PENDING", transition_id="ours")
        world.fake.put_state(run.id, "CANCELLING")
        from flowgroup.model.ids import AttemptId

        await at.journeys.teller.tell(run.id, AttemptId("ours"), world.outcome)
        assert world.fake.states(run.id)[-1] == "CANCELLED"


async def test_an_answer_that_was_lost_while_it_is_given_back_counts_as_one_try() -> None:
    world = one_run()
    world.fail_at, world.trouble, world.failures = "sent", ClusterFailed("x.", may_pass=True), 1
    async with line(world) as at:
        run = await due(at)
        original = at.api.say

        async def say(*args: object) -> object:
            world.fake.fail("set_state", "lost")
            return await original(*args)  # type: ignore[arg-type]

        object.__setattr__(at.journeys.teller.api, "say", say)
        await at.journeys.carry(run)
    assert states(world)[1:] == TRY


@pytest.mark.parametrize("gone", ["deployment", "variable"])
async def test_a_deployment_that_says_nothing_any_more_leaves_it_to_the_settings(gone: str) -> None:
    world = one_run(job_variables={"infrastructure_retries": 0})
    async with line(world, retries=1) as at:
        run = await due(at)
        world.fake.put_state(run.id, "PENDING", transition_id="ours")
        if gone == "deployment":
            world.fake.deployments.clear()
        else:
            next(iter(world.fake.deployments.values()))["job_variables"] = {"env": {"A": "{{ prefect.variables.no }}"}}
        from flowgroup.model.ids import AttemptId

        await at.journeys.teller.tell(run.id, AttemptId("ours"), Lost("x"))
        assert states(world)[-1] == ("SCHEDULED", "AwaitingInfrastructure")


@pytest.mark.parametrize(
    ("trouble", "outcome"),
    [
        (NoRoom("q"), GivenBack("q", 30.0)),
        (Transient("t"), Lost("t")),
        (ClusterFailed("c", may_pass=True), Lost("c")),
        (ClusterFailed("c"), Crashed("c")),
        (Permanent("p"), Crashed("p")),
    ],
)
def test_what_a_trouble_means(trouble: FlowgroupError, outcome: Outcome) -> None:
    assert failure(trouble) == outcome


def test_the_back_off_doubles_and_ends_at_five_minutes() -> None:
    waits = []
    for tries in range(30):
        back = verdict(["x"] * tries, "y", 100, has_begun=False)
        assert isinstance(back, GivenBack)
        waits.append(back.after_s)
    assert waits[:6] == [10, 20, 40, 80, 160, 300]
    assert max(waits) == 300
