"""A relay gets anything from drivers, children and daemons: each is answered, and nobody else's records are lost."""

import asyncio
import json
import uuid
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz.mutating import fuzz_async, spoilt, spoilt_bytes
from tests.fuzz.recorded import RUN
from tests.relay.serving import TOKEN, an_id, relay, sha256
from tests.relay.test_records import delivered, event, line

JSON = {"content-type": "application/json"}
ANSWERED = {200, 201, 204, 400, 401, 403, 404, 405, 409, 413, 422}


async def test_whatever_is_sent_as_records_is_taken_or_refused(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        said = {"attempts": [{"token": TOKEN, "logs": [line(on.run)], "events": [event(on.run)]}], "number": 0}

        async def check(random: Random) -> None:
            answer = await on.child.post("/flowgroup/records", content=spoilt_bytes(said, random), headers=JSON)
            assert answer.status_code in ANSWERED, (answer.status_code, answer.text)

        await fuzz_async(check, share=0.3)


async def test_a_bad_record_costs_no_good_one(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        sent = 0

        async def check(random: Random) -> None:
            nonlocal sent
            sent += 1
            logs = [line(on.run, f"before {sent}"), spoilt(line(on.run, "bad"), random), line(on.run, f"after {sent}")]
            body = json.dumps({"attempts": [{"token": TOKEN, "logs": logs, "events": [spoilt(event(on.run), random)]}]})
            answer = await on.child.post("/flowgroup/records", content=body, headers=JSON)
            assert answer.status_code == 200, (answer.status_code, answer.text)

        await fuzz_async(check, share=0.3)
        good = {f"{where} {number}" for where in ("before", "after") for number in range(1, sent + 1)}
        told: set[str] = set()
        async with asyncio.timeout(30):
            while not good <= told:  # of the spoilt lines some are lines still, so their number says nothing
                calls = await delivered(on, "/logs/", 2 * sent)
                told = {str(entry.get("message")) for call in calls for entry in call}
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("what", ["level", "open"])
async def test_what_the_daemon_says_is_taken_or_refused(tmp_path: Path, what: str) -> None:
    async with relay(tmp_path) as on:
        one = {"attempt": an_id(), "run_id": RUN, "token_sha256": sha256("x"), "results": None, "ttl_s": 60}
        said: Any = {"daemon": "d", "attempts": [one, one]} if what == "level" else one
        path = "/flowgroup/attempts" if what == "level" else f"/flowgroup/attempts/{uuid.uuid4()}"

        async def check(random: Random) -> None:
            answer = await on.daemon.put(path, content=spoilt_bytes(said, random), headers=JSON)
            assert answer.status_code in ANSWERED, (answer.status_code, answer.text)

        await fuzz_async(check, share=0.3)
        assert (await on.daemon.get("/flowgroup/health")).status_code == 200


async def test_what_a_child_calls_is_answered(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        calls: tuple[tuple[str, str, Any], ...] = (
            ("POST", f"/api/flow_runs/{on.run}/set_state", {"state": {"type": "RUNNING", "state_details": {}}}),
            ("PATCH", f"/api/flow_runs/{on.run}", {"empirical_policy": {"retries": 1}}),
            ("POST", "/api/logs/", [line(on.run)]),
            ("POST", "/api/events", [event(on.run)]),
            ("POST", "/api/flow_runs/filter", {"flow_runs": {"id": {"any_": [on.run]}}}),
            ("POST", "/api/task_runs/", {"flow_run_id": on.run, "task_key": "t", "dynamic_key": "0"}),
            ("POST", "/api/artifacts/", {"flow_run_id": on.run, "key": "a", "data": "x"}),
            ("POST", "/flowgroup/sign", {"method": "GET", "key": "a/b"}),
        )

        async def check(random: Random) -> None:
            method, path, body = random.choice(calls)
            answer = await on.child.request(method, path, content=spoilt_bytes(body, random), headers=JSON)
            # 503: the fake API fell over it, and the child is told to wait.
            assert answer.status_code in {*ANSWERED, 503}, (method, path, answer.status_code, answer.text)

        await fuzz_async(check, share=0.5)
