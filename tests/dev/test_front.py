"""Each fault, as a client sees it on the wire; and that all is as before when it is over."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from flowgroup.dev.front import FAULTS, Front, serving
from flowgroup.dev.outage.stand import certificates
from tests.fakes.upstream import FakeAPI, fake_api

_CALL = {"headers": {"Authorization": "Bearer the-real-token"}, "json": {"n": 1}}
_RAISES = {
    "time-outs": httpx.ReadTimeout,
    "refused connections": httpx.ConnectError,
    "black hole": httpx.ConnectTimeout,
    "answers cut in the middle": httpx.ReadError,
    "answers lost after the commit": httpx.ReadError,
    "wrong certificate": httpx.ConnectError,
}
_PATIENCE_S, _SILENT_S = 10.0, 0.7
_SILENT = ("time-outs", "black hole")
_CARRIED_OUT = ("answers cut in the middle", "answers lost after the commit")
_ANSWERS = {"500": (500, None), "503 with Retry-After": (503, "5"), "429": (429, "5")}


@asynccontextmanager
async def front(tmp_path: Path) -> AsyncIterator[tuple[FakeAPI, Front, httpx.AsyncClient]]:
    right, wrong, trusted = certificates(tmp_path)
    async with fake_api() as api:
        with serving(Front(api.url.removesuffix("/api"), tls=right, wrong=wrong)) as made:
            verify = ssl.create_default_context(cafile=trusted)
            async with httpx.AsyncClient(base_url=made.url, verify=verify, timeout=_PATIENCE_S) as client:
                yield api, made, client


def test_every_fault_is_tried_here() -> None:
    assert _RAISES.keys() | _ANSWERS.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", _ANSWERS)
async def test_a_fault_that_answers(tmp_path: Path, name: str) -> None:
    async with front(tmp_path) as (api, made, client):
        made.go_wrong(FAULTS[name])
        answer = await client.post("/logs/", **_CALL)
        assert (answer.status_code, answer.headers.get("retry-after")) == _ANSWERS[name]
        assert api.seen == []
        made.heal()
        assert (await client.post("/logs/", **_CALL)).status_code == 401  # the server's own word: it saw no token
        assert [call.path for call in made.seen] == ["/api/logs/"] * 2


@pytest.mark.parametrize("name", _RAISES)
@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_fault_that_does_not(tmp_path: Path, name: str, is_connected: bool) -> None:
    async with front(tmp_path) as (api, made, client):
        if is_connected:
            await client.get("/hello")
        before = len(api.seen)
        made.go_wrong(FAULTS[name])
        waits_s = _SILENT_S if name in _SILENT else _PATIENCE_S
        with pytest.raises((_RAISES[name], httpx.RemoteProtocolError, httpx.ReadTimeout)):
            await client.post("/logs/", **_CALL, timeout=waits_s)
        with pytest.raises((_RAISES[name], httpx.RemoteProtocolError)):
            await client.post("/logs/", **_CALL, timeout=waits_s)
        assert len(api.seen) - before == (2 if name in _CARRIED_OUT else 0)
        made.heal()
        before = len(api.seen)
        assert (await client.post("/logs/", **_CALL)).status_code == 401
        assert len(api.seen) == before + 1


async def test_calls_are_passed_on_without_the_key_below_the_servers_own_path(tmp_path: Path) -> None:
    async with fake_api() as api:
        with serving(Front(api.url.removesuffix("/api"), prefix="/api/accounts/a", key="k")) as made:
            async with httpx.AsyncClient(base_url=made.url) as client:
                assert (await client.get("/flows/1")).text == "who are you?"
                await client.post("/flows/?a=b", json=[1], headers={"Authorization": "Bearer k"})
                other = made.url.replace("accounts", "others")
                assert (await client.get(other + "/x", headers={"Authorization": "Bearer k"})).status_code == 404
    [seen] = api.seen
    assert (seen.path, seen.query, seen.json()) == ("/flows/", "a=b", [1])
    assert "authorization" not in seen.headers
    assert made.refused == ["/api/accounts/a/flows/1", "/api/others/a/x"]
