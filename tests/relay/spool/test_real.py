"""What the spool stands on, on a real Prefect server: lines can be read back, events and states may be sent again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flowgroup.relay.spool.spooling import Spool, spooling
from flowgroup.relay.upstream import Secrets, Upstream
from flowgroup.settings import RelaySettings
from tests.relay.serving import Relay, an_id, relay
from tests.relay.spool.world import until

pytestmark = pytest.mark.real


class Losing(httpx.AsyncHTTPTransport):
    """Carries calls with records out, and loses the answers of the first few."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.left = lost
        self.posts: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if request.url.path.endswith(("/logs/", "/events")):
            self.posts.append(request.url.path)
            self.left -= 1
            if self.left >= 0:
                await answer.aclose()
                raise httpx.ReadError("the answer was lost")
        return answer


@asynccontextmanager
async def a_spool(api: str, folder: Path, lost: int) -> AsyncIterator[tuple[Spool, Losing]]:
    secrets = Secrets(api_url=api, control_key=SecretStr("a-control-key-for-tests"))
    losing = Losing(lost)
    async with (
        httpx.AsyncClient() as client,
        spooling(RelaySettings(), Upstream(secrets, client, verify=None), folder, through=losing) as spool,
    ):
        yield spool, losing


async def _empty(spool: Spool) -> None:
    await until(lambda: not any(level.records for level in spool._waiting.values()), 60)


async def test_lines_whose_answer_was_lost_are_found_and_not_sent_twice(prefect_api: str, tmp_path: Path) -> None:
    runs = [an_id(), an_id()]
    at = datetime.now(UTC).isoformat()  # one moment for all: the relay makes 450 of it
    lines = [
        {"name": "n", "level": 20, "message": f"{number}\x00", "timestamp": at, "flow_run_id": runs[number % 2]}
        for number in range(900)
    ]
    async with a_spool(prefect_api, tmp_path, lost=2) as (spool, losing):
        await spool.store(logs=lines)
        await _empty(spool)
    assert losing.posts == ["/api/logs/"] * 2  # 500 and 400, neither of them again
    async with httpx.AsyncClient(base_url=prefect_api, timeout=60) as api:
        for which, run in enumerate(runs):
            got = await _logs(api, run)
            assert [int(one["message"]) for one in got] == list(range(which, 900, 2))


async def _logs(api: httpx.AsyncClient, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200, "offset": len(found)}
        page = (await api.post("/logs/filter", json=body)).json()
        found += page
        if len(page) < 200:
            return found


async def test_events_that_are_sent_again_are_there_once(prefect_api: str, tmp_path: Path) -> None:
    about = f"flowgroup.test.{an_id()}"
    events = [
        {
            "id": an_id(),
            "event": "spooled",
            "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": about},
            "payload": {"number": number},
        }
        for number in range(20)
    ]
    async with a_spool(prefect_api, tmp_path, lost=2) as (spool, losing):
        await spool.store(events=events)
        await _empty(spool)
    assert losing.posts == ["/api/events"] * 3
    async with httpx.AsyncClient(base_url=prefect_api, timeout=60) as api:

        async def got() -> list[int]:
            body = {"filter": {"any_resource": {"id": [about]}}, "limit": 50}
            found = (await api.post("/events/filter", json=body)).json()["events"]
            return sorted(one["payload"]["number"] for one in found)

        async with asyncio.timeout(30):
            while len(await got()) < 20:
                await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        assert await got() == list(range(20))


async def test_a_state_that_is_set_again_is_accepted_again_and_there_once(prefect_api: str, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=prefect_api, timeout=60) as api:
        flow = (await _made(api, "/flows/", {"name": f"spool-{an_id()}"}))["id"]
        run = (await _made(api, "/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}}))["id"]
        secrets = {"api_url": prefect_api, "api_key": None}
        async with relay(tmp_path, secrets=secrets, opened=False) as on:
            on.run = run
            (await on.open()).raise_for_status()
            first, again, other = [await _set_running(on, id) for id in ("a" * 32, "a" * 32, "b" * 32)]
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert again.json()["status"] == "ACCEPT"
        assert other.json()["state"]["id"] != first.json()["state"]["id"]
        states = (await api.get("/flow_run_states/", params={"flow_run_id": run})).json()
        assert [state["type"] for state in states].count("RUNNING") == 2


async def _made(api: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    """The server answers 503 while SQLite is busy, without having done anything."""
    async with asyncio.timeout(60):
        while (answer := await api.post(path, json=body)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(0.2)
    return answer.raise_for_status().json()


async def _set_running(on: Relay, transition: str) -> httpx.Response:
    state = {"type": "RUNNING", "name": "Running", "state_details": {"transition_id": transition}}
    return await on.child.post(f"/api/flow_runs/{on.run}/set_state", json={"state": state}, timeout=60)
