"""From the spool to the API, in virtual time: order, lost answers, refusals, outages, budgets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flowgroup.relay.pace import Pace
from flowgroup.relay.spool.delivery import Delivery, _Round
from flowgroup.relay.spool.disk import Disk
from flowgroup.relay.spool.rows import Kind, Times
from flowgroup.relay.spool.spooling import Spool
from flowgroup.relay.spool.upward import Answer
from flowgroup.relay.spool.writer import Inline
from tests.relay.spool.world import API, MIB, a_disk, a_spool, batch, record, until, waiting

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def delivering(folder: Path, api: API, pace: Pace | None = None, limit: int = 64 * MIB) -> AsyncIterator[Spool]:
    disk = a_disk(folder, clock=asyncio.get_running_loop().time, limit=limit, reserve=limit // 4)
    spool = a_spool(disk, api, pace)
    running = asyncio.create_task(spool.run())
    try:
        yield spool
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        disk.close()


def event(number: int) -> dict[str, object]:
    return {"id": f"id-{number}", "message": f"{number}"}


@pytest.mark.parametrize(
    "outcome", ["lost", "broken", "late", "slow", "locked", "refused", 500, 502, 503, 504, 429, 401, 404, 302, 408]
)
async def test_each_line_arrives_once_and_in_order_whatever_a_call_comes_to(tmp_path: Path, outcome: int | str) -> None:
    api = API(plan=[outcome, outcome])
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(number) for number in range(300)], events=[event(number) for number in range(3)])
        await until(lambda: len(api.numbers()) >= 300 and len(api.numbers(Kind.EVENTS)) >= 3)
        await asyncio.sleep(100)
        assert api.numbers() == list(range(300))
        assert api.numbers(Kind.EVENTS) == [0, 1, 2]


class _Looks(API):
    async def read_logs(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        assert self.reads < 10, "asked again and again, and no time passed"
        return await super().read_logs(asked)


async def test_a_rest_of_nanoseconds_is_not_waited_for_again_and_again(tmp_path: Path) -> None:
    now = asyncio.get_running_loop().time
    disk, api = a_disk(tmp_path, clock=now), _Looks()
    disk.store(batch(1, 2))
    flight = disk.next(Kind.LOGS, most=10, most_bytes=MIB)
    assert flight is not None
    await asyncio.sleep(300.05)
    round_ = _Round(flight, list(flight.kept), until=now() + 3e-14, noted=now())
    assert round_.until is not None and round_.until > now()
    await Delivery(Kind.LOGS, Inline(disk), api, Pace(), clock=now)._read_back(round_)  # type: ignore[arg-type]
    assert (len(round_.left), round_.until) == (2, None)
    disk.close()


async def test_lines_that_cannot_be_read_back_are_sent_again(tmp_path: Path) -> None:
    api = API(plan=["refused", "lost"])
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[{"name": "n", "level": 20, "message": "1", "timestamp": "now"}])
        await until(lambda: len(api.numbers()) == 2)
    assert api.numbers() == [1, 1]


@pytest.mark.parametrize("outcome", ["slow", "locked"])
async def test_an_answer_that_comes_late_is_heard_and_nothing_is_waited_for_beyond_it(
    tmp_path: Path, outcome: str
) -> None:
    api = API(plan=[outcome])
    async with delivering(tmp_path, api) as spool:
        begun = asyncio.get_running_loop().time()
        await spool.store(logs=[record(number) for number in range(300)])
        await until(lambda: len(api.numbers()) == 300)
        disk = a_disk_of(spool)
        await until(lambda: waiting(disk) == [])
        assert 40 <= asyncio.get_running_loop().time() - begun < 45
        assert len(api.calls) == (1 if outcome == "slow" else 2)


@pytest.mark.parametrize("when", ["sent", "waiting"])
async def test_a_line_that_is_the_same_as_one_from_before_a_restart_is_not_taken_for_it(
    tmp_path: Path, when: str
) -> None:
    """Two lines of one run with one time and one text: the first is at the API, or on its way, when the relay is killed."""
    api = API(plan=[] if when == "sent" else ["refused"] * 5)
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(7)], desk="d", number=1)
        await asyncio.sleep(0.3)
        assert api.numbers() == ([7] if when == "sent" else [])
    api.plan = ["broken"] if when == "sent" else [200, "broken"]
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(7)], desk="d", number=2)
        await until(lambda: waiting(a_disk_of(spool)) == [])
    assert api.numbers() == [7, 7]
    first, second = (one["timestamp"] for one in api.entries[Kind.LOGS])
    assert first < second


async def test_the_times_that_are_kept_for_a_restart_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgroup.relay.spool.disk._TIMES_OF", 1000)
    async with delivering(tmp_path, API()) as spool:
        for number in range(0, 5000, 100):
            await spool.store(logs=[record(number + one) for one in range(100)])
            await asyncio.sleep(1)
        await until(lambda: waiting(a_disk_of(spool)) == [])
        kept = a_disk_of(spool).times()
    assert 1000 <= len(kept) <= 1500
    assert len(set(kept)) == len(kept)


async def test_an_hour_of_errors_is_a_pause(tmp_path: Path) -> None:
    api = API()
    async with delivering(tmp_path, api) as spool:
        api.plan = [500, 503, "broken", 429, 502] * 100_000
        for number in range(0, 3600, 20):
            await spool.store(logs=[record(number + one) for one in range(20)], events=[event(number)])
            await asyncio.sleep(20)
        assert api.numbers() == []
        tried = len(api.calls)
        assert tried < 2 * 3600  # with full jitter below 10 s
        over = asyncio.get_running_loop().time()
        api.plan = []
        await until(lambda: len(api.numbers()) == 3600)
        assert asyncio.get_running_loop().time() - over < 60
        assert api.numbers() == list(range(3600))
        assert api.numbers(Kind.EVENTS) == list(range(0, 3600, 20))


async def test_after_an_outage_events_go_first(tmp_path: Path) -> None:
    api = API(plan=["refused"] * 10)
    async with delivering(tmp_path, api) as spool:
        await spool.store(
            logs=[record(number) for number in range(2000)], events=[event(number) for number in range(2000)]
        )
        await until(lambda: len(api.numbers()) == 2000)
    kinds = [kind for _, kind, count in api.calls[10:]]
    last_of_events = len(kinds) - 1 - kinds[::-1].index(Kind.EVENTS)
    assert kinds[:last_of_events].count(Kind.LOGS) <= 2  # by one of them it is seen that the API is back


async def test_one_record_that_is_refused_for_ever_costs_itself_alone_and_is_kept(tmp_path: Path) -> None:
    api = API(poison={"7", "8", "99"})
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(number) for number in range(200)])
        await until(lambda: len(api.numbers()) == 197)
        assert api.numbers() == [number for number in range(200) if number not in (7, 8, 99)]
        disk = a_disk_of(spool)
        await until(lambda: waiting(disk) == [])
        assert [(kind, reason[:3]) for kind, reason, _ in disk.dead()] == [("logs", "422")] * 3


@pytest.mark.parametrize("count", [1, 40])
async def test_one_record_that_is_always_answered_500_does_not_hold_up_the_rest(tmp_path: Path, count: int) -> None:
    api = API(cursed={"0"})
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(number) for number in range(count)])
        await asyncio.sleep(300)
        await spool.store(logs=[record(1000 + number) for number in range(3)])
        wanted = [*range(1, count), 1000, 1001, 1002]
        await until(lambda: len(api.numbers()) == len(wanted))
        assert api.numbers() == wanted
        disk = a_disk_of(spool)
        await until(lambda: waiting(disk) == [])
        assert [reason[:3] for _, reason, _ in disk.dead()] == ["500"]


async def test_an_api_that_only_says_500_buries_nothing(tmp_path: Path) -> None:
    api = API(cursed={f"{number}" for number in range(40)})
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(number) for number in range(40)])
        await asyncio.sleep(3600)
        assert len(api.calls) < 20 * 3600 / 5
        await until(lambda: api.calls[-1][0] < asyncio.get_running_loop().time() - 0.4)  # it rests
        api.cursed = set()
        await until(lambda: len(api.numbers()) == 40)
        assert api.numbers() == list(range(40))
        assert a_disk_of(spool).dead() == []


class _GetsWell(API):
    """After so many calls with one record alone; then only one of them is still bad."""

    ill_for: int = 0

    async def post(self, kind: Kind, bodies: Sequence[bytes]) -> Answer:
        self.ill_for -= len(bodies) == 1
        answer = await super().post(kind, bodies)
        if self.ill_for <= 0:
            self.cursed = {"30"}
        return answer


@pytest.mark.parametrize("ill_for", range(1, 5))
async def test_an_api_that_gets_well_in_the_middle_of_a_search_buries_nothing(tmp_path: Path, ill_for: int) -> None:
    api = _GetsWell(cursed={f"{number}" for number in range(40)})
    api.ill_for = ill_for
    async with delivering(tmp_path, api) as spool:
        await spool.store(logs=[record(number) for number in range(40)])
        disk = a_disk_of(spool)
        await until(lambda: waiting(disk) == [])
        assert sorted(api.numbers()) == [number for number in range(40) if number != 30]
        assert [(reason[:3]) for _, reason, _ in disk.dead()] == ["500"]


async def test_a_budget_of_calls_and_of_records_a_minute_is_kept(tmp_path: Path) -> None:
    api = API()
    async with delivering(tmp_path, api, Pace(requests_per_minute=60, records_per_minute=6000)) as spool:
        begun = asyncio.get_running_loop().time()
        for number in range(0, 20_000, 500):
            await spool.store(logs=[record(number + one) for one in range(500)])
        await until(lambda: len(api.numbers()) == 20_000)
        took_s = asyncio.get_running_loop().time() - begun
    assert 180 <= took_s <= 220
    for start, _, _ in api.calls:
        within = [count for at, _, count in api.calls if start <= at < start + 60]
        assert sum(within) <= 6000 * 65 / 60 + 500
        assert len(within) <= 66


async def test_what_was_dropped_is_said_in_the_runs_log(tmp_path: Path) -> None:
    api = API(plan=["refused"] * 20)
    async with delivering(tmp_path, api, limit=MIB) as spool:
        for number in range(0, 5000, 50):
            await spool.store(logs=[record(number + one, level=10 + one % 2 * 10) for one in range(50)])
        api.plan = []
        await until(lambda: any("dropped" in one["message"] for one in api.entries[Kind.LOGS]))
        told = [one for one in api.entries[Kind.LOGS] if "dropped" in one["message"]]
        lines = [int(one["message"]) for one in api.entries[Kind.LOGS] if one not in told]
        assert len(told) == 1
        assert f"dropped {5000 - len(lines)} lines" in told[0]["message"]
        assert lines == sorted(lines)


def test_times_within_a_run_are_its_own_and_memory_is_bounded() -> None:
    times = Times(of_a_run=50, of_all=500)
    assert [times.own("a", 5) for _ in range(4)] == [5, 6, 7, 8]
    assert times.own("a", 6) == 9
    assert times.own("b", 5) == 5
    for run in range(50):
        for _ in range(200):
            times.own(f"{run}", 0)
    assert times._count == sum(len(run.taken) for run in times._runs.values()) <= 500
    assert all(len(run.taken) <= 100 for run in times._runs.values())
    of_one = Times(of_a_run=50, of_all=500)
    assert [of_one.own("a", at) for at in range(101)] == [*range(101)]
    assert of_one.own("a", 51) == 101  # the newest fifty are still known
    assert of_one.own("a", 3) == 3


def test_the_times_of_a_run_that_says_nothing_more_are_forgotten() -> None:
    now = [0.0]
    times = Times(silent_s=60, clock=lambda: now[0])
    assert [times.own("a", 5), times.own("b", 5)] == [5, 5]
    now[0] = 50.0
    assert times.own("b", 5) == 6
    now[0] = 100.0
    assert times.own("b", 5) == 7
    assert list(times._runs) == ["b"]
    assert times._count == 3
    now[0] = 1000.0
    assert times.own("c", 5) == 5
    assert list(times._runs) == ["c"]


def a_disk_of(spool: Spool) -> Disk:
    disk: Disk = spool._doing._disk  # type: ignore[attr-defined]
    return disk
