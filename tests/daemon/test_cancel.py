"""Who is asked to end or to be suspended: by asking, and by what the event stream says."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowgroup.daemon.cancel import Cancels, look_for_cancelling
from flowgroup.daemon.listen import listen
from flowgroup.daemon.wake import Wake
from flowgroup.edge.events import Notice
from flowgroup.model.ids import RunId
from flowgroup.model.states import Stops
from tests.daemon.test_journey import due, nothing_is_kept, one_run
from tests.fakes.world import World, line

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(("is_streamed", "within_s"), [(False, 2.5), (True, 10.5)])
async def test_a_look_finds_who_is_cancelling_and_who_is_suspended_among_those_under_way(
    is_streamed: bool, within_s: float
) -> None:
    world = World()
    one, two, three, elsewhere = (world.fake.add_run(world.fake.add_deployment(name=str(n))) for n in range(4))
    async with line(world) as at:
        looking = asyncio.create_task(look_for_cancelling(at.api, at.cancels, lambda: is_streamed, lambda: None))
        with (
            at.cancels.listening(RunId(one)) as first,
            at.cancels.listening(RunId(two)) as second,
            at.cancels.listening(RunId(three)) as third,
        ):
            await asyncio.sleep(0.1)
            world.fake.put_state(one, "CANCELLING")
            world.fake.put_state(two, "PAUSED", "Suspended")
            world.fake.put_state(three, "PAUSED")
            world.fake.put_state(elsewhere, "CANCELLING")
            await asyncio.sleep(within_s)
            assert (first.cancel.is_set(), first.suspend.is_set()) == (True, False)
            assert (second.cancel.is_set(), second.suspend.is_set()) == (False, True)
            assert (third.cancel.is_set(), third.suspend.is_set()) == (False, False)
        looking.cancel()


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
async def test_a_run_that_is_over_for_the_api_is_asked_to_end_after_a_moment(how: str) -> None:
    world = World()
    run = world.fake.add_run(world.fake.add_deployment())
    world.fake.put_state(run, "RUNNING")
    async with line(world) as at:
        looking = asyncio.create_task(look_for_cancelling(at.api, at.cancels, lambda: True, lambda: None))
        with at.cancels.listening(RunId(run)) as asked:
            await asyncio.sleep(0.1)
            if how == "deleted":
                del world.fake.runs[run]
            else:
                world.fake.put_state(run, "CANCELLED")
            at.cancels.look_at(RunId(run))
            await asyncio.sleep(1)
            assert not asked.cancel.is_set()
            await asyncio.sleep(2)
            assert asked.cancel.is_set()
        looking.cancel()


async def test_an_end_that_the_engine_has_just_told_is_no_reason_to_end_it() -> None:
    world = World()
    run = world.fake.add_run(world.fake.add_deployment())
    async with line(world) as at:
        looking = asyncio.create_task(look_for_cancelling(at.api, at.cancels, lambda: True, lambda: None))
        with at.cancels.listening(RunId(run)) as asked:
            world.fake.put_state(run, "CANCELLED")
            at.cancels.look_at(RunId(run))
            await asyncio.sleep(1)
        await asyncio.sleep(5)
        assert not asked.cancel.is_set()
        with at.cancels.listening(RunId(run)) as again:  # another attempt of it, later
            world.fake.put_state(run, "PENDING")
            await asyncio.sleep(25)
            assert not again.cancel.is_set()
        looking.cancel()


async def test_a_run_that_the_api_only_fails_to_show_is_not_asked_to_end() -> None:
    world = World()
    run, other = (world.fake.add_run(world.fake.add_deployment(name=str(n))) for n in range(2))
    async with line(world) as at:
        looking = asyncio.create_task(look_for_cancelling(at.api, at.cancels, lambda: False, lambda: None))
        with at.cancels.listening(RunId(run)) as asked, at.cancels.listening(RunId(other)):
            world.fake.put_state(other, "CANCELLING")
            world.fake.runs[run]["state"] = {**world.fake.runs[run]["state"], "state_details": "nonsense"}
            await asyncio.sleep(9)
            assert not asked.cancel.is_set()
        looking.cancel()


async def test_nothing_is_asked_while_nothing_is_under_way() -> None:
    world = World()
    async with line(world) as at:
        looking = asyncio.create_task(look_for_cancelling(at.api, at.cancels, lambda: False, lambda: None))
        await asyncio.sleep(60)
        looking.cancel()
    assert world.fake.count("filter|count") == 0


async def test_a_look_costs_one_call_while_nobody_is_to_stop() -> None:
    world = World()
    runs = [RunId(world.fake.add_run(world.fake.add_deployment(name=str(n)))) for n in range(3)]
    async with line(world) as at:
        assert await at.api.to_stop(runs) == Stops()
        assert world.fake.count("filter") == 0
        assert world.fake.count("count") == 1


@pytest.mark.parametrize("rings", [True, False])
async def test_what_may_have_been_asked_of_a_run_meanwhile_is_looked_up_at_once(rings: bool) -> None:
    world = World()
    run = RunId(world.fake.add_run(world.fake.add_deployment()))
    async with line(world) as at:
        looking = asyncio.create_task(look_for_cancelling(at.api, at.cancels, lambda: True, lambda: None))
        await asyncio.sleep(1)
        world.fake.put_state(run, "CANCELLING")
        with at.cancels.listening(run) as asked:
            if rings:
                at.cancels.look_at(run)
            at.cancels.look_at(RunId("nobody"))
            await asyncio.sleep(0.1)
            assert asked.cancel.is_set() is rings
        looking.cancel()


class Said:
    def __init__(self, *notices: Notice) -> None:
        self._notices = notices

    async def notices(self) -> AsyncIterator[Notice]:
        for notice in self._notices:
            yield notice


async def test_what_the_stream_says_reaches_the_run_at_once_and_rings_only_for_what_is_due() -> None:
    cancels, poll, changes = Cancels(), Wake(), []
    with cancels.listening(RunId("one")) as one, cancels.listening(RunId("two")) as two:
        said = Said(
            Notice("cancelling", RunId("one")),
            Notice("suspended", RunId("two")),
            Notice("suspended", RunId("nobody")),
            Notice("over", RunId("two")),
        )
        await listen(said, poll, cancels, lambda: changes.append(1))
        assert one.cancel.is_set()
        assert two.suspend.is_set()
        assert not one.suspend.is_set()
        assert not two.cancel.is_set()
        assert await cancels.bell.wait(0)
    await listen(Said(Notice("over", RunId("two"))), poll, cancels, lambda: changes.append(1))
    assert not await cancels.bell.wait(0)
    assert not await poll.wait(0)
    assert changes == []
    await listen(Said(Notice("due", RunId("three"))), poll, cancels, lambda: changes.append(1))
    assert await poll.wait(0)
    assert changes == []
    await listen(Said(Notice("changed")), poll, cancels, lambda: changes.append(1))
    assert changes == [1]


async def test_a_run_that_is_cancelled_while_it_is_claimed_makes_no_cluster() -> None:
    world = one_run()
    async with line(world) as at:
        run = await due(at)
        await at.api.deployment(run.deployment_id, "v1")  # type: ignore[arg-type]
        await at.api.template()
        world.fake.fail("set_state", "lost")  # the claim is done, and its answer takes a while
        journey = asyncio.create_task(at.journeys.carry(run))
        while "PENDING" not in world.fake.states(run.id):
            await asyncio.sleep(0)
        world.fake.put_state(
            run.id, "CANCELLING", transition_id=world.fake.history[run.id][-1]["state_details"]["transition_id"]
        )
        assert at.cancels.ask(run.id)
        await journey
        assert "sent" not in world.trail
        nothing_is_kept(at)


async def test_a_run_that_is_deleted_keeps_nothing() -> None:
    world = one_run()
    world.hang_at = "watched"
    async with line(world) as at:
        run = await due(at)
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(10)
        del world.fake.runs[run.id], world.fake.history[run.id]
        at.cancels.ask(run.id)
        await journey
        assert len(world.closed) == 1
        nothing_is_kept(at)


async def test_a_run_whose_deployment_is_deleted_meanwhile_can_be_cancelled() -> None:
    world = one_run()
    world.hang_at = "watched"
    async with line(world) as at:
        run = await due(at)
        journey = asyncio.create_task(at.journeys.carry(run))
        await asyncio.sleep(10)
        world.fake.deployments.clear()
        world.fake.runs[run.id]["deployment_id"] = None
        world.fake.put_state(run.id, "CANCELLING")
        at.cancels.ask(run.id)
        await journey
        assert world.fake.states(run.id)[-1] == "CANCELLED"
        nothing_is_kept(at)
