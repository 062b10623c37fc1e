"""Records of many runs at once, through a real relay to a fake API."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

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


def delivered(on: Relay, path: str) -> list[list[Any]]:
    return [seen.json() for seen in on.api.seen if seen.path == path]


async def test_records_of_many_runs_go_on_in_one_call_with_the_real_token(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        other = an_id()
        body = {"run_id": other, "token_sha256": sha256("other"), "results": None, "ttl_s": 60}
        await on.daemon.put(f"/flowgroup/attempts/{an_id()}", json=body)
        mine, theirs = {"token": TOKEN, "logs": [line(on.run)]}, {"token": "other", "logs": [line(other)]}
        answer = await send(on, {**mine, "events": [event(on.run)]}, theirs)
        assert answer.json() == {"refused": 0}
        assert delivered(on, "/logs/") == [[line(on.run), line(other)]]
        assert len(delivered(on, "/events")) == 1
        assert on.api.seen[-1].headers["authorization"] == "Bearer the-real-token"


async def test_a_record_about_another_run_is_refused_alone(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        bad = [line(an_id()), line("no id"), "nothing", {"flow_run_id": 3}]
        answer = await send(
            on, {"token": TOKEN, "logs": [*bad, line(on.run)], "events": [event(an_id()), event(on.run)]}
        )
        assert answer.json() == {"refused": len(bad) + 1}
        assert delivered(on, "/logs/") == [[line(on.run)]]
        assert [len(events) for events in delivered(on, "/events")] == [1]


async def test_a_token_that_is_not_open_costs_only_its_own_records(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        answer = await send(
            on, {"token": "forged", "logs": [line(on.run)]}, {"token": TOKEN, "logs": [line(on.run, "b")]}
        )
        assert answer.json() == {"refused": 1}
        assert delivered(on, "/logs/") == [[line(on.run, "b")]]


async def test_of_a_name_given_twice_the_api_gets_the_one_that_was_judged(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        twice = json.dumps(line(an_id()))[:-1] + f', "flow_run_id": "{on.run}"}}'
        body = f'{{"attempts": [{{"token": "{TOKEN}", "logs": [{twice}]}}]}}'
        assert (await on.child.post("/flowgroup/records", content=body)).json() == {"refused": 0}
        assert delivered(on, "/logs/") == [[line(on.run)]]
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


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401])
async def test_an_api_that_is_away_lets_the_driver_wait(tmp_path: Path, status: int) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(status, path="/logs/")
        assert waits(await send(on, {"token": TOKEN, "logs": [line(on.run)]}))
        on.api.failure = None
        assert (await send(on, {"token": TOKEN, "logs": [line(on.run)]})).status_code == 200


async def test_one_record_that_the_api_never_takes_costs_itself_alone(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.poison = b"poison"
        lines = [line(on.run, f"{number}" if number != 5 else "poison") for number in range(12)]
        assert (await send(on, {"token": TOKEN, "logs": lines})).status_code == 200
        taken = [entry["message"] for call in on.api.taken for entry in call]
        assert sorted(taken, key=int) == [str(number) for number in range(12) if number != 5]


async def test_what_comes_while_a_call_is_under_way_goes_along_with_the_next(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(delay_s=0.3, status=201, times=1, path="/logs/")
        answers = await asyncio.gather(
            *(send(on, {"token": TOKEN, "logs": [line(on.run, str(number))]}) for number in range(30))
        )
        assert {answer.status_code for answer in answers} == {200}
        calls = delivered(on, "/logs/")
        assert len(calls) <= 4
        assert sorted(int(entry["message"]) for call in calls for entry in call) == list(range(30))


async def test_a_slow_api_gets_each_line_once(tmp_path: Path) -> None:
    """The driver is told to wait, and sends the same again; the API carries out the first call late."""
    async with relay(tmp_path, settings=RelaySettings(hold_s=0.3)) as on:
        on.api.failure = Failure(200, delay_s=1.5, times=1)
        said = {"token": TOKEN, "logs": [line(on.run)]}
        answers = [await send(on, said)]
        while answers[-1].status_code == 503:
            assert waits(answers[-1])
            answers.append(await send(on, said))
        assert len(answers) > 2
        assert answers[-1].json() == {"refused": 0}
        assert [seen.path for seen in on.api.seen] == ["/logs/"]
