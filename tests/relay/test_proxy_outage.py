"""While the API is in trouble a child waits; what is the call's own fault it is told."""

import asyncio
import time
from pathlib import Path

import pytest

from flowgroup.settings import RelaySettings
from tests.fakes.upstream import Failure
from tests.relay.serving import relay, waits

_REAL = "the-real-token"


@pytest.mark.parametrize("status", [401, 408, 429, 502, 503, 504, 522])
async def test_while_the_api_is_in_trouble_the_childwaits(tmp_path: Path, status: int) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(status, headers={"Retry-After": "7", "WWW-Authenticate": "Basic"})
        answer = await on.child.post(f"/api/flow_runs/{on.run}/set_state", json={})
        assert waits(answer)
        assert 7.0 <= float(answer.headers["retry-after"]) <= 9.0
        assert "www-authenticate" not in answer.headers


async def test_a_locked_database_is_asked_again_at_once(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(503, times=2)
        answer = await on.child.post(f"/api/flow_runs/{on.run}/set_state", json={})
        assert answer.status_code == 200
        assert len(on.api.seen) == 3


@pytest.mark.timed
async def test_nobody_is_held_for_long_when_the_api_does_not_answer(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=RelaySettings(hold_s=0.3)) as on:
        on.api.failure = Failure(delay_s=2.0)
        began = time.monotonic()
        assert waits(await on.child.get("/api/health"))
        assert time.monotonic() - began < 1.5


async def test_an_answer_that_breaks_off_is_an_outage_too(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(breaks_off=True)
        assert waits(await on.child.get("/api/health"))


async def test_an_api_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    async with relay(tmp_path, secrets={"api_url": "http://127.0.0.1:9/api", "api_key": _REAL}) as on:
        assert waits(await on.child.get("/api/health"))


async def test_a_call_that_always_gives_500_is_told_in_the_end(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(500, path="/variables/")
        answers = [await on.child.post("/api/variables/", json={}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [503] * 4 + [500]


async def test_while_everything_gives_500_the_child_waits_without_limit(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(500)
        answers = [await on.child.post("/api/variables/", json={}) for _ in range(12)]
        assert all(waits(answer) for answer in answers)


async def test_a_csrf_error_is_the_clients_own_to_mend(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(403, body=b'{"detail": "Invalid CSRF token"}')
        answer = await on.child.post("/api/variables/", json={}, headers={"Prefect-Csrf-Token": "t"})
        assert answer.status_code == 403
        assert on.api.last().headers["prefect-csrf-token"] == "t"


async def test_childrens_calls_are_within_the_budget_and_those_beyond_it_wait(tmp_path: Path) -> None:
    budget = RelaySettings(hold_s=1.0, requests_per_minute=120)
    async with relay(tmp_path, settings=budget) as on:
        began = time.monotonic()
        answers = await asyncio.gather(*(on.child.get(f"/api/flow_runs/{on.run}") for _ in range(60)))
        most = 1 + 5 * 2 + (time.monotonic() - began) * 2  # what is saved up, and two a second
        refused = [answer for answer in answers if answer.status_code == 503]
        assert 60 - len(refused) <= len(on.api.seen) <= most  # one that was sent may have had no answer in time
        assert all(waits(answer) for answer in refused)
        assert sum("FLOWGROUP_RELAY_REQUESTS_PER_MINUTE" in answer.text for answer in refused) >= 60 - most
        assert len(answers) - len(refused) >= 10
