"""Two daemons on one pool, in virtual time: one is ended, killed, stopped or cut off, and nothing is lost or done twice."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.fakes.two_daemons import World, now, world

pytestmark = [pytest.mark.looptime, pytest.mark.timeout(1200)]
_SEEDS = int(os.environ.get("FLOWGROUP_CHAOS_SEEDS", "3"))
_FIRST_SEED = int(os.environ.get("FLOWGROUP_CHAOS_FIRST_SEED", "1"))


async def _under_way(at: World, *seconds: int) -> list[str]:
    runs = [at.run(one) for one in seconds]
    await at.until(lambda: len(at.ledger) == len(runs), 30.0)
    return runs


async def test_one_that_is_ended_is_followed_at_once_and_runs_go_on(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        runs = await _under_way(at, 30, 30)
        first = at.leader
        assert first is not None
        await first.end()
        assert await at.until(lambda: at.other(first).leads, 15.0) <= 2.0
        late = at.run(1)
        await at.completed([late], 10.0)
        await at.completed(runs)
        assert at.backend.made == list(at.backend.clusters), "one cluster, for both"


async def test_a_killed_one_is_followed_within_fifteen_seconds_and_runs_go_on(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        runs = await _under_way(at, 40, 3)  # the second ends while nobody leads
        first = at.leader
        assert first is not None
        await first.kill()
        late = at.run(1)
        took_s = await at.until(lambda: at.fake.states(late)[-1] == "COMPLETED", 30.0)
        assert took_s <= 15.0 + 2.0, "taken over, and a run of one second"
        await at.completed([*runs, late])


@pytest.mark.parametrize("is_claiming", [False, True])
async def test_one_that_was_stopped_for_a_minute_does_nothing_more(tmp_path: Path, is_claiming: bool) -> None:
    async with world(tmp_path) as at:
        runs = await _under_way(at, 90, 20)
        first = at.leader
        assert first is not None
        if is_claiming:
            before = at.fake.count("set_state")
            runs.append(at.run(2))
            await at.until(lambda: at.fake.count("set_state") > before, 10.0)
        first.process.stop()
        stopped_at = now()
        runs += [at.run(2) for _ in range(3)]
        await asyncio.sleep(60.0)
        assert at.other(first).leads
        first.process.go_on()
        await asyncio.sleep(10.0)
        assert at.acts_of(first, since=stopped_at) == []
        assert not first.leads
        await at.completed(runs)
        await at.other(first).end()
        await at.until(lambda: first.leads, 15.0)
        await at.completed([at.run(1)])


async def test_one_that_cannot_reach_kubernetes_stops_before_the_other_begins(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        runs = await _under_way(at, 40)
        first = at.leader
        assert first is not None
        first.way.is_cut = True
        cut_at = now()
        runs += [at.run(1) for _ in range(2)]
        await at.until(lambda: at.other(first).leads, 15.0)
        assert at.acts_of(first, since=cut_at + 7.0) == []
        runs.append(at.run(1))
        await at.completed(runs)
        first.way.is_cut = False
        await asyncio.sleep(5.0)
        assert not first.leads


async def test_one_that_cannot_reach_prefect_leads_on_and_what_is_due_runs_once_afterwards(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        runs = await _under_way(at, 10)
        first = at.leader
        assert first is not None
        first.prefect.is_cut = True
        cut_at = now()
        runs += [at.run(1) for _ in range(3)]
        await asyncio.sleep(30.0)
        assert first.leads
        assert at.acts_of(at.other(first), since=cut_at) == []
        first.prefect.is_cut = False
        await at.completed(runs)


async def test_a_claim_whose_answer_was_lost_with_its_daemon_is_given_back_and_runs_once(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await at.completed([at.run(1)])
        first = at.leader
        assert first is not None
        at.fake.fail("set_state", "lost", times=1000)
        at.fake.fail("GET /flow_runs/", 503, times=1000)
        run = at.run(1)
        await at.until(lambda: at.fake.states(run)[-1] == "PENDING", 10.0)
        await first.kill()
        at.fake.faults.clear()
        await at.completed([run], 90.0)
        assert len(at.ledger) == 2


@pytest.mark.parametrize("seed", range(_FIRST_SEED, _FIRST_SEED + _SEEDS))
async def test_seeds(tmp_path: Path, seed: int) -> None:
    """Anything at any time, for two minutes; then all is well again, and every run has completed, once."""
    dice = random.Random(seed)
    async with world(tmp_path) as at:
        runs = [at.run(dice.randint(1, 30)) for _ in range(3)]
        until = now() + 120.0
        while now() < until:
            await _trouble(at, dice)
            runs.append(at.run(dice.randint(1, 20)))
            await asyncio.sleep(dice.uniform(0.0, 8.0))
        await at.completed(runs, 150.0)


async def _trouble(at: World, dice: random.Random) -> None:
    daemon = dice.choice(at.daemons)
    await asyncio.sleep(dice.uniform(0.0, 3.0))
    match dice.choice(["stop", "kubernetes", "prefect", "deaf", "lost", "busy", "ended lines"]):
        case "stop":
            daemon.process.stop()
            await asyncio.sleep(dice.choice([1.0, 8.0, 25.0]))
            daemon.process.go_on()
        case "kubernetes":
            daemon.way.is_cut = True
            await asyncio.sleep(dice.uniform(1.0, 20.0))
            daemon.way.is_cut = False
        case "prefect":
            daemon.prefect.is_cut = True
            await asyncio.sleep(dice.uniform(1.0, 10.0))
            daemon.prefect.is_cut = False
        case "deaf":
            daemon.way.is_deaf = True
            await asyncio.sleep(dice.uniform(1.0, 12.0))
            daemon.way.is_deaf = False
        case "lost":
            at.fake.fail("set_state|workers", "lost", times=dice.randint(1, 4))
        case "busy":
            at.fake.fail(".", 503, times=dice.randint(1, 10))
        case _:
            for driver in at.backend.drivers.values():
                driver.hang_up()
