"""Records of many runs at once, through a real relay to a fake API."""

import asyncio
import json
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from flowgroup.settings import RelaySettings
from tests.fakes.upstream import Failure
from tests.relay.serving import TOKEN, Relay, an_id, relay, sha256, waits


def line(run: str, message: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "name": "n",
        "level": 20,
        "message": message,
        "timestamp": "2026-01-01T00:00:00Z",
        "flow_run_id": run,
        **more,
    }


def event(run: str) -> dict[str, Any]:
    return {"id": an_id(), "event": "e", "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"}, "related": []}


async def send(on: Relay, *said: dict[str, Any]) -> Any:
    return await on.child.post("/flowgroup/records", json={"attempts": said})


async def until(is_so: Callable[[], Any], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.01)


def calls(on: Relay, path: str) -> list[list[Any]]:
    return [seen.json() for seen in on.api.seen if seen.path == path]


async def delivered(on: Relay, path: str, count: int) -> list[list[Any]]:
    """The API's calls to `path`, once it got so many records by them."""
    await until(lambda: sum(map(len, calls(on, path))) >= count)
    return calls(on, path)


async def test_records_of_many_runs_go_on_in_one_call_with_the_real_token(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        other = an_id()
        body = {"run_id": other, "token_sha256": sha256("other"), "results": None, "ttl_s": 60}
        await on.daemon.put(f"/flowgroup/attempts/{an_id()}", json=body)
        mine, theirs = {"token": TOKEN, "logs": [line(on.run)]}, {"token": "other", "logs": [line(other)]}
        answer = await send(on, {**mine, "events": [event(on.run)]}, theirs)
        assert answer.json() == {"refused": 0}
        assert await delivered(on, "/logs/", 2) == [[line(on.run), line(other)]]
        assert len(await delivered(on, "/events", 1)) == 1
        assert on.api.seen[-1].headers["authorization"] == "Bearer the-real-token"


async def test_a_record_about_another_run_is_refused_alone(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        bad = [line(an_id()), line("no id"), "nothing", {"flow_run_id": 3}]
        answer = await send(
            on, {"token": TOKEN, "logs": [*bad, line(on.run)], "events": [event(an_id()), event(on.run)]}
        )
        assert answer.json() == {"refused": len(bad) + 1}
        assert await delivered(on, "/logs/", 1) == [[line(on.run)]]
        assert [len(events) for events in await delivered(on, "/events", 1)] == [1]


async def test_a_token_that_is_not_open_costs_only_its_own_records(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        answer = await send(
            on, {"token": "forged", "logs": [line(on.run)]}, {"token": TOKEN, "logs": [line(on.run, "b")]}
        )
        assert answer.json() == {"refused": 1}
        assert await delivered(on, "/logs/", 1) == [[line(on.run, "b")]]


async def test_of_a_name_given_twice_the_api_gets_the_one_that_was_judged(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        twice = json.dumps(line(an_id()))[:-1] + f', "flow_run_id": "{on.run}"}}'
        body = f'{{"attempts": [{{"token": "{TOKEN}", "logs": [{twice}]}}]}}'
        assert (await on.child.post("/flowgroup/records", content=body)).json() == {"refused": 0}
        assert await delivered(on, "/logs/", 1) == [[line(on.run)]]
        assert on.api.seen[-1].body.count(b"flow_run_id") == 1


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"attempts": 3}', '{"attempts": [{"logs": []}]}', "[" * 100_000])
async def test_a_body_of_another_form_is_told_so(tmp_path: Path, body: str) -> None:
    async with relay(tmp_path) as on:
        answer = await on.child.post("/flowgroup/records", content=body)
        assert answer.status_code == 422
        assert TOKEN not in answer.text


async def test_a_relay_that_knows_nothing_yet_lets_the_driver_wait(tmp_path: Path) -> None:
    async with relay(tmp_path, opened=False) as on:
        assert waits(await send(on, {"token": TOKEN, "logs": [line(on.run)]}))


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
async def test_while_the_api_is_away_records_are_taken_and_wait(tmp_path: Path, status: int) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(status, path="/logs/")
        assert (await send(on, {"token": TOKEN, "logs": [line(on.run)]})).status_code == 200
        await until(lambda: calls(on, "/logs/"))
        assert on.api.taken == []
        on.api.failure = None
        await until(lambda: on.api.logs)
        assert [entry["message"] for entry in on.api.logs] == ["hello"]


async def test_one_record_that_the_api_never_takes_costs_itself_alone(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.poison = b"poison"
        lines = [line(on.run, f"{number}" if number != 5 else "poison") for number in range(12)]
        assert (await send(on, {"token": TOKEN, "logs": lines})).status_code == 200
        await until(lambda: len(on.api.logs) == 11)
        assert [entry["message"] for entry in on.api.logs] == [str(number) for number in range(12) if number != 5]


async def test_what_comes_while_a_call_is_under_way_goes_along_with_the_next(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(delay_s=0.5, status=0, times=1, path="/logs/")
        answers = await asyncio.gather(
            *(send(on, {"token": TOKEN, "logs": [line(on.run, str(number))]}) for number in range(30))
        )
        assert {answer.status_code for answer in answers} == {200}
        await until(lambda: len(on.api.logs) == 30)
        assert len(calls(on, "/logs/")) <= 4
        assert sorted(int(entry["message"]) for entry in on.api.logs) == list(range(30))


@pytest.mark.parametrize("kind", ["logs", "events"])
async def test_a_batch_that_a_desk_sends_again_is_taken_and_not_stored_twice(tmp_path: Path, kind: str) -> None:
    async with relay(tmp_path) as on:
        desk = an_id()
        for number in (1, 1, 2, 2, 1, 3):
            record = line(on.run, str(number)) if kind == "logs" else {**event(on.run), "event": str(number)}
            body = {"desk": desk, "number": number, "attempts": [{"token": TOKEN, kind: [record]}]}
            assert (await on.child.post("/flowgroup/records", json=body)).status_code == 200
        path = "/logs/" if kind == "logs" else "/events"
        got = await delivered(on, path, 3)
        assert [record.get("message") or record.get("event") for call in got for record in call] == ["1", "2", "3"]


async def test_lines_of_one_moment_get_moments_of_their_own(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        await send(on, {"token": TOKEN, "logs": [line(on.run, str(number)) for number in range(100)]})
        await until(lambda: len(on.api.logs) == 100)
        times = [datetime.fromisoformat(entry["timestamp"]) for entry in on.api.logs]
        assert times == sorted(set(times))
        assert times[-1] - times[0] == timedelta(microseconds=99)


async def test_an_event_without_an_id_gets_one(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        bare = {name: value for name, value in event(on.run).items() if name != "id"}
        await send(on, {"token": TOKEN, "events": [bare]})
        assert uuid.UUID((await delivered(on, "/events", 1))[0][0]["id"])


@pytest.mark.parametrize(("path", "status"), [("/logs/", 201), ("/events", 204)])
async def test_what_a_child_posts_itself_is_stored_and_a_body_that_comes_again_is_not(
    tmp_path: Path, path: str, status: int
) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(503, path=path)
        records = [line(on.run)] if path == "/logs/" else [event(on.run)]
        other = [line(on.run, "other")] if path == "/logs/" else [event(on.run)]
        for body in (records, records, other):
            assert (await on.child.post(f"/api{path}", json=body)).status_code == status
        on.api.failure = None
        await until(lambda: sum(map(len, on.api.taken)) >= 2)
        await asyncio.sleep(0.3)
        assert sum(len(body) for body in on.api.taken if "logs" not in body) == 2


async def counted(on: Relay) -> dict[str, float]:
    """The relay's counts of what left, by metric and kind."""
    text = (await on.daemon.get("/flowgroup/metrics")).text
    found = re.findall(r'^flowgroup_relay_(records|left_bytes|masked|cut)_total\{kind="(\w+)"\} (\S+)$', text, re.M)
    return {f"{kind} {name}": float(value) for name, kind, value in found}


async def test_what_left_is_counted_by_kind_and_for_its_run(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=RelaySettings(hold_s=2.0, redact=("hunter[0-9]",))) as on:
        before = await counted(on)
        said = {"logs": [line(on.run, "hunter2 hunter3"), line(on.run, "x" * 30_000)], "events": [event(on.run)]}
        await send(on, {"token": TOKEN, **said})
        state = {"state": {"type": "RUNNING", "message": "by hunter4"}}
        await on.child.post(f"/api/flow_runs/{on.run}/set_state", json=state)
        now = await counted(on)
        left = {name: value - before.get(name, 0) for name, value in now.items()}
        assert {name: left[f"logs {name}"] for name in ("records", "masked", "cut")} == {
            "records": 2,
            "masked": 2,
            "cut": 1,
        }
        assert (left["events records"], left["events masked"]) == (1, 0)
        assert (left["states records"], left["states masked"]) == (1, 1)
        assert 25_000 < left["logs left_bytes"] < 26_500
        assert left["states left_bytes"] > len("by ***")
        with structlog.testing.capture_logs() as told:
            await on.daemon.delete(f"/flowgroup/attempts/{on.attempt}")
        (closed,) = [one for one in told if one["event"] == "attempt_closed"]
        assert (closed["records"], closed["masked"], closed["cut"]) == (4, 3, 1)
        assert closed["bytes"] == sum(left[f"{kind} left_bytes"] for kind in ("logs", "events", "states"))
