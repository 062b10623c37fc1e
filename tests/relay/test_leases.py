"""A concurrency lease that ends in an outage never ends a run."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.settings import RelaySettings
from tests.fakes.upstream import Failure, Seen
from tests.relay.serving import Relay, an_id, relay

_TAKE, _GIVE = "/v2/concurrency_limits/increment-with-lease", "/v2/concurrency_limits/decrement-with-lease"
_TAKE_WITHOUT = "/v2/concurrency_limits/increment"
_SLOTS = {"names": ["db"], "slots": 2, "mode": "concurrency", "lease_duration": 300}
_SOON = RelaySettings(hold_s=0.5)


def renewal(lease: str) -> str:
    return f"/v2/concurrency_limits/leases/{lease}/renew"


async def renewed(on: Relay, lease: str, duration_s: float = 300) -> httpx.Response:
    return await on.child.post(f"/api{renewal(lease)}", json={"lease_duration": duration_s})


async def taken(on: Relay, lease: str) -> None:
    """The child takes slots, and is given this lease."""
    on.api.answers["POST", _TAKE] = (200, {"lease_id": lease, "limits": [{"id": an_id(), "name": "db", "limit": 2}]})
    answer = await on.child.post(f"/api{_TAKE}", json=_SLOTS)
    assert answer.json()["lease_id"] == lease


async def until(is_so: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def calls(on: Relay, path: str) -> list[Seen]:
    return [seen for seen in on.api.seen if seen.path == path]


@pytest.mark.timed
@pytest.mark.parametrize(
    "failure", [Failure(500), Failure(503), Failure(429), Failure(breaks_off=True), Failure(delay_s=3)]
)
async def test_a_renewal_is_answered_while_the_api_is_away_and_made_when_it_is_back(
    tmp_path: Path, failure: Failure
) -> None:
    lease = an_id()
    async with relay(tmp_path, settings=_SOON) as on:
        on.api.answers["POST", renewal(lease)] = (204, None)
        on.api.failure = failure
        began = time.monotonic()
        assert (await renewed(on, lease)).status_code == 204
        assert (await renewed(on, lease)).status_code == 204  # it is owed already
        assert time.monotonic() - began < 2
        on.api.failure = None
        before = len(on.api.seen)
        await until(lambda: len(on.api.seen) > before)
        assert on.api.last().path == renewal(lease)
        assert on.api.last().json() == {"lease_duration": 300}


async def test_a_lease_that_is_over_is_taken_again_and_its_old_name_stands_for_the_new_one(tmp_path: Path) -> None:
    old, new = an_id(), an_id()
    async with relay(tmp_path) as on:
        await taken(on, old)
        on.api.answers["POST", renewal(old)] = (410, {"detail": "Lease not found"})
        on.api.answers["POST", renewal(new)] = (204, None)
        on.api.answers["POST", _TAKE] = (200, {"lease_id": new, "limits": []})
        assert (await renewed(on, old)).status_code == 204
        await until(lambda: len(calls(on, _TAKE)) == 2)
        assert calls(on, _TAKE)[1].json() == _SLOTS
        while not calls(on, renewal(new)):
            assert (await renewed(on, old)).status_code == 204
            await asyncio.sleep(0.02)
        await on.child.post(f"/api{_GIVE}", json={"lease_id": old})
        assert calls(on, _GIVE)[0].json() == {"lease_id": new}


async def test_where_the_slot_is_anothers_the_run_goes_on_is_told_once_and_tries_again(tmp_path: Path) -> None:
    old = an_id()
    async with relay(tmp_path) as on:
        await taken(on, old)
        on.api.answers["POST", renewal(old)] = (410, {})
        on.api.answers["POST", _TAKE] = (423, {})
        assert (await renewed(on, old)).status_code == 204
        await until(lambda: calls(on, "/logs/"))
        for tries in (3, 4):
            while len(calls(on, _TAKE)) < tries:
                assert (await renewed(on, old)).status_code == 204
                await asyncio.sleep(0.05)
        [said] = calls(on, "/logs/")
        assert said.json()[0]["flow_run_id"] == on.run
        assert "goes on without it" in said.json()[0]["message"]


def of_deployment(on: Relay, lease: str, **labels: str) -> None:
    """The lease is that of the run's deployment, and is over."""
    deployment, details = an_id(), {"deployment_concurrency_lease_id": lease}
    run = {"id": on.run, "deployment_id": deployment, "state": {"state_details": details}, "labels": labels}
    on.api.answers["GET", f"/flow_runs/{on.run}"] = (200, run)
    on.api.answers["GET", f"/deployments/{deployment}"] = (200, {"global_concurrency_limit": {"name": "deployment:d"}})
    on.api.answers["POST", renewal(lease)] = (410, {})
    on.api.answers["POST", _TAKE_WITHOUT] = (200, [{"name": "deployment:d"}])
    on.api.answers["PATCH", f"/flow_runs/{on.run}/labels"] = (204, None)


async def test_a_deployments_slot_is_taken_again_once_and_noted_before(tmp_path: Path) -> None:
    lease = an_id()
    async with relay(tmp_path) as on:
        of_deployment(on, lease)
        assert (await renewed(on, lease)).status_code == 204
        await until(lambda: calls(on, _TAKE_WITHOUT))
        assert calls(on, _TAKE_WITHOUT)[0].json() == {"names": ["deployment:d"], "slots": 1, "mode": "concurrency"}
        [label] = calls(on, f"/flow_runs/{on.run}/labels")
        assert on.api.seen.index(label) < on.api.seen.index(calls(on, _TAKE_WITHOUT)[0])
        await until(lambda: on.api.last().path == _TAKE_WITHOUT)
        before = len(on.api.seen)
        assert (await renewed(on, lease)).status_code == 204
        assert len(on.api.seen) == before
        noted = label.json()
    async with relay(tmp_path) as on:  # a relay that was started again
        of_deployment(on, lease, **noted)
        assert (await renewed(on, lease)).status_code == 204
        await until(lambda: calls(on, f"/flow_runs/{on.run}"))
        assert (await renewed(on, lease)).status_code == 204
        assert calls(on, _TAKE_WITHOUT) == []


async def test_a_deployments_slot_whose_answer_was_lost_is_not_taken_twice(tmp_path: Path) -> None:
    lease = an_id()
    async with relay(tmp_path, settings=_SOON) as on:
        of_deployment(on, lease)
        on.api.failure = Failure(breaks_off=True, path=_TAKE_WITHOUT, times=1)
        assert (await renewed(on, lease)).status_code == 204
        await until(lambda: on.api.failure and on.api.failure.times == 0)
        await until(lambda: len(calls(on, renewal(lease))) == 3)
        await until(lambda: len(calls(on, f"/flow_runs/{on.run}")) == 2)
        assert (await renewed(on, lease)).status_code == 204
        assert len(calls(on, _TAKE_WITHOUT)) == 1


async def test_an_unknown_lease_that_is_over_is_no_deployments_and_the_run_goes_on(tmp_path: Path) -> None:
    lease = an_id()
    async with relay(tmp_path) as on:
        of_deployment(on, an_id())
        on.api.answers["POST", renewal(lease)] = (410, {})
        assert (await renewed(on, lease)).status_code == 204
        await until(lambda: calls(on, "/logs/"))
        assert calls(on, _TAKE_WITHOUT) == []


async def test_a_renewal_that_is_wrong_in_itself_is_told(tmp_path: Path) -> None:
    lease = an_id()
    async with relay(tmp_path) as on:
        on.api.answers["POST", renewal(lease)] = (422, {"detail": "lease_duration"})
        answer = await renewed(on, lease, duration_s=1)
        assert (answer.status_code, json.loads(answer.content)) == (422, {"detail": "lease_duration"})


async def test_nothing_is_owed_for_an_attempt_that_has_ended(tmp_path: Path) -> None:
    lease = an_id()
    async with relay(tmp_path, settings=_SOON) as on:
        on.api.failure = Failure(503)
        assert (await renewed(on, lease)).status_code == 204
        await on.daemon.delete(f"/flowgroup/attempts/{on.attempt}")
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == f"lease {lease}"], 60)
