"""Dask's dashboards through the page: who may see which, and what passes between a browser and a scheduler."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from flowgroup.daemon.page.dashboards import Dashboards
from flowgroup.daemon.page.serving import served
from flowgroup.edge.embedded import Embedded
from flowgroup.model.dashboards import path
from flowgroup.model.ids import ClusterName
from flowgroup.sections import DaemonSettings
from tests.servers import free_port

KEY, ONE, OTHER = "the relay's key", ClusterName("etl-1"), ClusterName("etl-2")


class Scheduler:
    """What a scheduler serves; `asked` is what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.port = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        routes = [WebSocketRoute("/{path:path}/ws", self._echo), Route("/{path:path}", self._get)]
        config = uvicorn.Config(
            Starlette(routes=routes), port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        server = Embedded(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        self.port = server.port
        try:
            yield
        finally:
            server.should_exit = True
            await serving

    async def _get(self, request: Request) -> Response:
        whole = f"{request.scope['raw_path'].decode()}?{request.url.query}"
        self.asked.append((whole, dict(request.headers)))
        if request.url.path.endswith("/elsewhere"):
            return RedirectResponse("https://elsewhere.example/")
        told = {"set-cookie": "flowgroup_page=mine", "content-security-policy": "default-src *", "etag": '"7"'}
        return JSONResponse({"it": "is"}, headers=told)

    async def _echo(self, socket: WebSocket) -> None:
        self.asked.append((socket.url.path, dict(socket.headers)))
        await socket.accept(subprotocol=socket.scope["subprotocols"][0] if socket.scope["subprotocols"] else None)
        with contextlib.suppress(Exception):
            while True:
                await socket.send_text(f"you said {await socket.receive_text()}")


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    made = Scheduler()
    async with made.serve():
        yield made


@contextlib.asynccontextmanager
async def paged(tmp_path: Path, at: dict[ClusterName, str]) -> AsyncIterator[tuple[str, Dashboards]]:
    """The daemon's page; its address."""
    dashboards = Dashboards(KEY, at.get)
    settings = DaemonSettings(home=tmp_path, pool="p", page_port=0)
    async with served(settings, tmp_path, dict, dashboards) as address:
        assert address
        yield address, dashboards


@pytest.fixture
async def page(tmp_path: Path, scheduler: Scheduler) -> AsyncIterator[str]:
    async with paged(tmp_path, {ONE: f"http://127.0.0.1:{scheduler.port}"}) as (address, _):
        yield address


async def get(address: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(address, **more)


async def test_its_address_opens_it_without_the_token_of_the_page(page: str, scheduler: Scheduler) -> None:
    answer = await get(f"{page}{path(KEY, ONE)}/status?a=b%20c")
    assert (answer.status_code, answer.json()) == (200, {"it": "is"})
    assert scheduler.asked[0][0] == f"{path(KEY, ONE)}/status?a=b%20c"


@pytest.mark.parametrize(
    "wrong",
    [
        f"/dashboards/{ONE}",
        f"/dashboards/{ONE}/",
        f"/dashboards/{ONE}/0123/status",
        f"/dashboards/{ONE}/{path(KEY, OTHER).rpartition('/')[2]}/status",
        f"{path(KEY, ONE)}more/status",
        f"{path('another key', ONE)}/status",
        f"{path(KEY, ONE)[:-1]}/status",
    ],
)
async def test_no_other_address_does(page: str, scheduler: Scheduler, wrong: str) -> None:
    assert (await get(f"{page}{wrong}")).status_code == 404
    assert scheduler.asked == []


async def test_a_cluster_without_a_dashboard_has_none(page: str, scheduler: Scheduler) -> None:
    assert (await get(f"{page}{path(KEY, OTHER)}/status")).status_code == 404
    assert scheduler.asked == []


async def test_neither_side_has_what_is_the_others(page: str, scheduler: Scheduler) -> None:
    secret = {
        "Cookie": "flowgroup_page=secret",
        "Authorization": "Bearer secret",
        "Origin": "http://x",
        "X-Mine": "secret",
    }
    answer = await get(f"{page}{path(KEY, ONE)}/status", headers=secret)
    assert not any("secret" in value for value in scheduler.asked[0][1].values())
    assert "set-cookie" not in answer.headers
    assert answer.headers["etag"] == '"7"'


async def test_what_it_shows_is_sandboxed_and_loads_nothing_from_elsewhere(page: str) -> None:
    for asked in (f"{path(KEY, ONE)}/status", f"{path(KEY, ONE)}/elsewhere", f"{path('no', ONE)}/status"):
        policy = (await get(f"{page}{asked}")).headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts; default-src 'self'")
        assert "allow-same-origin" not in policy and "*" not in policy


async def test_it_leads_nobody_elsewhere(page: str) -> None:
    answer = await get(f"{page}{path(KEY, ONE)}/elsewhere")
    assert (answer.status_code, answer.headers.get("location")) == (502, None)
    answer = await get(f"{page}{path(KEY, ONE)}/")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{path(KEY, ONE)}/status")


async def test_only_reading_is_passed_on(page: str, scheduler: Scheduler) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(f"{page}{path(KEY, ONE)}/api/v1/retire_workers", json={})).status_code == 405
    assert scheduler.asked == []


async def test_websockets_pass_both_ways_with_their_subprotocol(page: str, scheduler: Scheduler) -> None:
    address = f"{page.replace('http', 'ws')}{path(KEY, ONE)}/status/ws"
    cookie = {"Cookie": "flowgroup_page=secret", "Origin": "null"}
    async with connect(address, subprotocols=["bokeh", "a-token"], additional_headers=cookie, proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "bokeh"
        await socket.send("hello")
        assert await socket.recv() == "you said hello"
    seen = scheduler.asked[0][1]
    assert "cookie" not in seen and "origin" not in seen


@pytest.mark.parametrize("key", ["another key", ""])
async def test_a_websocket_needs_the_same_address(page: str, scheduler: Scheduler, key: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"{page.replace('http', 'ws')}{path(key, ONE)}/status/ws", proxy=None):
            raise AssertionError
    assert caught.value.response.status_code == 404
    assert scheduler.asked == []


async def test_a_scheduler_that_does_not_answer_is_said(tmp_path: Path) -> None:
    async with paged(tmp_path, {ONE: f"http://127.0.0.1:{free_port()}"}) as (address, dashboards):
        answer = await get(f"{address}{dashboards.link(ONE)}")
        assert answer.status_code == 502
        assert "bokeh" in answer.text and "FLOWGROUP_DASHBOARDS" in answer.text
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"{address.replace('http', 'ws')}{path(KEY, ONE)}/ws", proxy=None):
                raise AssertionError
        assert caught.value.response.status_code == 502


async def test_the_page_links_to_those_that_there_are(tmp_path: Path) -> None:
    async with paged(tmp_path, {ONE: "http://127.0.0.1:1"}) as (_, dashboards):
        assert dashboards.link(ONE) == f"{path(KEY, ONE)}/status"
        assert dashboards.link(OTHER) is None


async def test_without_the_setting_there_is_nothing_below_that_path(tmp_path: Path) -> None:
    with capture_logs():
        async with served(DaemonSettings(home=tmp_path, pool="p", page_port=0), tmp_path, dict) as address:
            assert (await get(f"{address}{path(KEY, ONE)}/status")).status_code == 404
