"""When the API is asked, and which journeys start. Time is virtual, for the API too."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from flowgroup.daemon.poll import Poll, Rhythm
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.wake import Wake
from flowgroup.edge.prefect import prefect
from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.runs import DueRun
from flowgroup.settings import PrefectSettings
from tests.fakes.prefect_api import FakePrefect

pytestmark = pytest.mark.looptime
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def seconds() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Setting:
    fake: FakePrefect
    wake: Wake
    slots: Slots
    started: list[tuple[float, str]] = field(default_factory=list)
    takes_s: float = 0.0
    pause_s: float = 0.0
    is_streamed: bool = True

    async def carry(self, due: DueRun) -> float:
        with self.slots.hold(due.id) as held:
            if not held:
                return 0.0
            self.started.append((seconds(), due.id))
            if self.pause_s == 0.0:
                self.fake.put_state(due.id, "PENDING")
            await asyncio.sleep(self.takes_s)
            return self.pause_s


@asynccontextmanager
async def polling(*, slots: int = 10, rhythm: Rhythm | None = None) -> AsyncIterator[Setting]:
    fake = FakePrefect(now=lambda: BEGAN + timedelta(seconds=seconds()))
    wake = Wake()
    at = Setting(fake, wake, Slots(slots, on_free=wake.nudge))
    settings = PrefectSettings(api_url="http://prefect.test/api")
    async with prefect(settings, "pool", transport=httpx.ASGITransport(fake)) as api:
        await api.ensure_pool()
        poll = Poll(api, at.carry, at.slots, wake, rhythm or Rhythm(2.0, 10.0, 2.0), now=lambda: fake.now())
        poll.is_streamed = lambda: at.is_streamed
        task = asyncio.create_task(poll.run())
        try:
            yield at
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_it_asks_about_every_two_seconds_with_jitter() -> None:
    async with polling() as at:
        await asyncio.sleep(100)
        assert 40 <= at.fake.count("get_scheduled") <= 62


async def test_without_the_event_stream_it_asks_twice_as_often() -> None:
    async with polling() as at:
        at.is_streamed = False
        await asyncio.sleep(100)
        assert 80 <= at.fake.count("get_scheduled") <= 124


async def test_a_ring_makes_it_ask_at_once_but_not_without_end() -> None:
    async with polling(rhythm=Rhythm(1000.0, 10.0, 2.0)) as at:
        await asyncio.sleep(10)
        run = at.fake.add_run(at.fake.add_deployment())
        began = seconds()
        at.wake.ring()
        await asyncio.sleep(0.2)
        assert [(when - began < 0.15, one) for when, one in at.started] == [(True, run)]
        before = at.fake.count("get_scheduled")
        for _ in range(1000):
            at.wake.ring()
            await asyncio.sleep(0.001)
        assert at.fake.count("get_scheduled") - before <= 12


async def test_a_run_seen_ahead_is_started_two_seconds_before_its_time_by_a_timer() -> None:
    async with polling(rhythm=Rhythm(7.0, 60.0, 2.0)) as at:
        await asyncio.sleep(20)
        at.fake.add_run(at.fake.add_deployment(), in_s=33.3)
        await asyncio.sleep(60)
        assert [round(when, 1) for when, _ in at.started] == [pytest.approx(20 + 33.3 - 2, abs=0.2)]


async def test_runs_of_a_queue_that_comes_first_do_not_hide_what_is_due_before_they_are() -> None:
    async with polling(slots=3) as at:
        deployment = at.fake.add_deployment()
        for _ in range(50):
            at.fake.add_run(deployment, in_s=9.5, priority=0)
        due = at.fake.add_run(deployment, priority=1)
        soon = at.fake.add_run(deployment, in_s=3.0, priority=1)
        await asyncio.sleep(2.6)
        assert [one for _, one in at.started] == [due, soon]
        await asyncio.sleep(7)
        assert len(at.started) > 2


async def test_a_lone_run_is_never_kept_waiting_by_the_question_before_it() -> None:
    async with polling(rhythm=Rhythm(1000.0, 10.0, 2.0)) as at:
        at.wake.ring()
        await asyncio.sleep(10)
        run = at.fake.add_run(at.fake.add_deployment())
        began = seconds()
        at.wake.ring()
        await asyncio.sleep(0.001)
        assert at.started == [(pytest.approx(began, abs=0.002), run)]


async def test_a_burst_is_asked_for_a_few_times_and_not_for_each_of_its_runs() -> None:
    async with polling(slots=100, rhythm=Rhythm(1000.0, 10.0, 2.0)) as at:
        at.takes_s = 1000
        await asyncio.sleep(1)
        deployment, before = at.fake.add_deployment(), at.fake.count("get_scheduled")
        for _ in range(100):
            at.fake.add_run(deployment)
            at.wake.ring()
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert len(at.started) == 100
        assert at.fake.count("get_scheduled") - before <= 12


async def test_a_run_that_was_moved_or_deleted_meanwhile_is_not_started() -> None:
    async with polling(rhythm=Rhythm(5.0, 60.0, 2.0)) as at:
        run = at.fake.add_run(at.fake.add_deployment(), in_s=30)
        await asyncio.sleep(15)
        del at.fake.runs[run]
        await asyncio.sleep(60)
        assert at.started == []


async def test_a_run_is_started_once_however_often_it_is_seen() -> None:
    async with polling() as at:
        at.takes_s = 50
        at.fake.add_run(at.fake.add_deployment())
        await asyncio.sleep(100)
        assert len(at.started) == 1


async def test_slots_bound_what_is_under_way_and_a_free_one_is_used_at_once() -> None:
    async with polling(slots=3) as at:
        at.takes_s = 10
        deployment = at.fake.add_deployment()
        for _ in range(9):
            at.fake.add_run(deployment)
        await asyncio.sleep(5)
        assert len(at.slots.held) == 3
        await asyncio.sleep(40)
        assert len(at.started) == 9
        assert at.started[-1][0] - at.started[0][0] <= 21.5


async def test_with_all_slots_held_it_still_asks_so_that_deployments_stay_ready() -> None:
    async with polling(slots=1) as at:
        at.takes_s = 1000
        at.fake.add_run(at.fake.add_deployment())
        await asyncio.sleep(5)
        before = at.fake.count("get_scheduled")
        await asyncio.sleep(120)
        assert 3 <= at.fake.count("get_scheduled") - before <= 5


async def test_a_run_that_was_put_down_is_left_alone_for_its_pause() -> None:
    async with polling() as at:
        at.pause_s = 10.0
        at.fake.add_run(at.fake.add_deployment())
        await asyncio.sleep(35)
        assert len(at.started) in (3, 4)


async def test_runs_that_cannot_start_do_not_hide_those_behind_them() -> None:
    """Many runs wait for their turn at the head of the line; another flow's run comes later."""
    async with polling(slots=2) as at:
        deployment = at.fake.add_deployment()
        blocked = {at.fake.add_run(deployment) for _ in range(50)}
        original = at.fake.put_state

        def put_state(run: str, *args: str, **details: object) -> object:
            return None if run in blocked else original(run, *args, **details)

        at.fake.put_state = put_state  # type: ignore[method-assign, assignment]
        await asyncio.sleep(1)
        free = at.fake.add_run(at.fake.add_deployment("other"), in_s=0.5)
        await asyncio.sleep(60)
        assert free in {run for _, run in at.started}


@pytest.mark.parametrize("how", [500, 503, 401, "html", "lost"])
async def test_an_outage_is_waited_out(how: int | str) -> None:
    async with polling() as at:
        await asyncio.sleep(5)
        at.fake.fail("get_scheduled", how, times=5)
        run = at.fake.add_run(at.fake.add_deployment())
        await asyncio.sleep(90)
        assert [one for _, one in at.started] == [run]


async def test_it_stays_away_for_as_long_as_the_api_asks() -> None:
    async with polling() as at:
        await asyncio.sleep(5)
        at.fake.fail("get_scheduled", 429, **{"retry-after": "60"})
        await asyncio.sleep(5)
        before = at.fake.count("get_scheduled")
        await asyncio.sleep(50)
        assert at.fake.count("get_scheduled") == before
        await asyncio.sleep(30)
        assert at.fake.count("get_scheduled") > before


async def test_an_answer_that_is_older_than_a_journeys_end_starts_nothing() -> None:
    """Prefect lets a failed run be claimed again: what was told before it ended must not start it."""
    run = DueRun(RunId("r"), "r", FlowId("f"), None, BEGAN, {})
    started: list[RunId] = []

    class SlowApi:
        async def due(
            self, *, limit: int, before: datetime, after: datetime | None = None, queues: Sequence[str] = ()
        ) -> list[DueRun]:
            await asyncio.sleep(20)  # the answer was right when it was given
            return [run] if len(started) < 1 or seconds() < 50 else []

    slots = Slots(5)

    async def carry(due: DueRun) -> float:
        with slots.hold(due.id):
            started.append(due.id)
            await asyncio.sleep(10)  # it ends while the next question is on its way
            return 0.0

    poll = Poll(SlowApi(), carry, slots, Wake(), Rhythm(2.0, 10.0, 2.0), now=lambda: BEGAN)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await poll.run()
    assert started == ["r"]


async def test_a_stop_ends_the_journeys_too() -> None:
    async with polling() as at:
        at.takes_s = 1000
        at.fake.add_run(at.fake.add_deployment())
        await asyncio.sleep(5)
        assert at.slots.held
    assert not at.slots.held
