"""The page for people: who may see it, and what it says of runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from flowgroup.daemon.artifacts import Artifacts
from flowgroup.daemon.page.app import app
from flowgroup.daemon.page.serving import TOKEN_FILE, served
from flowgroup.daemon.timings import Timings
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.ids import AttemptId, ClusterName, FlowId, RunId
from flowgroup.model.runs import ClaimedRun, DueRun
from flowgroup.sections import DaemonSettings
from tests.servers import free_port

TOKEN = "the-token-of-the-page"
TOLD = {"pool": "p", "clusters": [], "runs": [], "timings": []}


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app(lambda: dict(TOLD), TOKEN))
    async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/status.json"])
@pytest.mark.parametrize("shown", [{}, {"Authorization": "Bearer wrong"}, {"Cookie": f"flowgroup_page={TOKEN}"}])
async def test_nothing_is_shown_without_the_token(browser: httpx.AsyncClient, path: str, shown: dict[str, str]) -> None:
    answer = await browser.get(path, headers=shown)
    assert answer.status_code == 401
    assert "/login" in answer.text
    assert "pool" not in answer.text


async def test_the_token_opens_the_page_for_a_browser_that_never_has_it_in_an_address(
    browser: httpx.AsyncClient,
) -> None:
    wrong = await browser.post("/login", data={"token": "x"})
    assert (wrong.status_code, wrong.headers.get("set-cookie")) == (303, None)
    right = await browser.post("/login", data={"token": TOKEN})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert (await browser.get("/")).status_code == 200
    assert (await browser.get("/status.json")).json() == TOLD


async def test_a_token_of_any_letters_opens_it_and_a_long_one_costs_no_memory() -> None:
    token = "a+b &%c=é?/" * 2
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(dict, token)), base_url="http://page") as client:
        assert "set-cookie" in (await client.post("/login", data={"token": token})).headers
        for body in (b"", b"token", b"token=%ff", b"token=" + b"x" * 5_000_000):
            answer = await client.post("/login", content=body)
            assert (answer.status_code, answer.headers.get("set-cookie")) == (303, None)


async def test_a_program_shows_the_token_itself(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/status.json", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.json() == TOLD


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/status.json"])
async def test_nothing_may_come_from_elsewhere(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "//" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("<!doctype html>", "")


async def test_only_what_there_is_is_served(browser: httpx.AsyncClient) -> None:
    for path in ("/index.html", "/login.html", "/app.py", "/../app.py", "/%2e%2e/app.py"):
        assert (await browser.get(path)).status_code == 404


def settings(tmp_path: Path, **told: Any) -> DaemonSettings:
    return DaemonSettings(home=tmp_path, pool="p", page_port=0, **told)


async def test_a_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        with capture_logs() as logs:
            async with served(settings(tmp_path), tmp_path, lambda: dict(TOLD)):
                [said] = [entry for entry in logs if entry["event"] == "page_served"]
                tokens.append((tmp_path / TOKEN_FILE).read_text())
                async with httpx.AsyncClient(trust_env=False) as client:
                    answer = await client.get(
                        f"{said['at']}/status.json", headers={"Authorization": f"Bearer {tokens[-1]}"}
                    )
        assert answer.json() == TOLD
        assert tokens[-1] not in json.dumps(said)
    assert tokens[0] == tokens[1]
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


async def test_a_token_of_somebody_else_has_to_be_there_and_long(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for text in (None, "", "short"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(Refused, match="FLOWGROUP_PAGE_TOKEN_FILE"):
            async with served(settings(tmp_path, page_token_file=file), tmp_path, dict):
                raise AssertionError


async def test_links_lead_to_the_port_that_was_free_or_to_what_people_reach(tmp_path: Path) -> None:
    async with served(settings(tmp_path), tmp_path, dict) as page, httpx.AsyncClient(trust_env=False) as client:
        assert page is not None and not page.endswith(":0")
        assert (await client.get(page)).status_code == 401
    async with served(settings(tmp_path, page_url="https://flows.example"), tmp_path, dict) as page:
        assert page == "https://flows.example"


async def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    port = free_port()
    told = settings(tmp_path).model_copy(update={"page_port": port})
    async with served(told, tmp_path, dict):
        with pytest.raises(Refused, match=f"{port}.*FLOWGROUP_PAGE_PORT"):
            async with served(told, tmp_path, dict):
                raise AssertionError


async def test_without_a_port_there_is_no_page(tmp_path: Path) -> None:
    async with served(DaemonSettings(home=tmp_path, pool="p"), tmp_path, dict):
        assert not list(tmp_path.iterdir())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def claimed(number: int, late_s: float = 0.0) -> ClaimedRun:
    due_at = datetime.now(UTC) - timedelta(seconds=late_s)
    due = DueRun(RunId(f"run-{number}"), f"name-{number}", FlowId("f"), None, due_at, {})
    return ClaimedRun(due, AttemptId("a"), None)


def test_stages_are_timed_one_after_the_other() -> None:
    clock = Clock()
    timings = Timings(clock=clock)
    timings.claimed(claimed(1, late_s=3.0), ClusterName("c"))
    for stage, seconds in (("placed", 0.5), ("started", 0.25)):
        clock.now += seconds
        timings.reached(RunId("run-1"), stage)
    clock.now += 10
    [told] = timings.told()
    assert (told["outcome"], told["cluster"], told["name"]) == (None, "c", "name-1")
    assert told["stages"].pop("waited") == pytest.approx(3.0, abs=1.0)
    assert told["stages"] == {"placed": 0.5, "started": 0.25}
    timings.ended(RunId("run-1"), "completed")
    [told] = timings.told()
    assert told["outcome"] == "completed"
    assert told["stages"]["ran"] == 10


def test_the_newest_are_kept_and_others_are_nobodys() -> None:
    timings = Timings(most=3)
    for number in range(5):
        timings.claimed(claimed(number), None)
    assert [one["id"] for one in timings.told()] == ["run-4", "run-3", "run-2"]
    timings.reached(RunId("run-0"), "placed")
    timings.ended(RunId("of-another-daemon"), "completed")
    assert len(timings.told()) == 3


class Api:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[tuple[str, str]] = []

    async def write_artifact(self, run_id: RunId, markdown: str, description: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.written.append((run_id, markdown))


async def test_each_run_that_has_ended_has_an_artifact_however_long_the_api_is_away() -> None:
    api = Api(Transient("away"), Transient("away"), Permanent("deleted"))
    artifacts = Artifacts(api)
    timings = Timings(on_end=artifacts.ended)
    for number in range(3):
        timings.claimed(claimed(number), ClusterName("c"))
        for stage in ("placed", "started"):
            timings.reached(RunId(f"run-{number}"), stage)
        timings.ended(RunId(f"run-{number}"), "completed")
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(artifacts.run("https://page.example", lambda: None))
        while len(api.written) < 2:
            await asyncio.sleep(0.05)
        writing.cancel()
    assert [run for run, _ in api.written] == ["run-1", "run-2"]
    text = api.written[0][1]
    assert [stage in text for stage in ("| waited |", "| placed |", "| started |", "| ran |")] == [True] * 4
    assert "completed, on cluster `c`" in text and "(https://page.example)" in text
