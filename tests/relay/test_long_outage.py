"""Prefect's API is away for an hour: children wait, nothing is told to them, and all that they had to say arrives in order."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.edge import forward
from flowgroup.relay import main
from flowgroup.relay.spool.spooling import spooling
from flowgroup.relay.upstream import Secrets, Upstream
from flowgroup.settings import RelaySettings
from tests.relay.serving import CONTROL_KEY, TOKEN, an_id, sha256

pytestmark = pytest.mark.looptime
_HOUR_S = 3600.0
_SPEAKS_AT_S, _CALLS, _RENEW_EVERY_S = (1.0, 3000.0, 3599.0), 4, 225.0


def seconds() -> float:
    return asyncio.get_running_loop().time()


class Away(httpx.AsyncBaseTransport):
    """The API, away for the first hour; `took` has the bodies that it took by path, `asked` when it was called."""

    def __init__(self, how: int | type[httpx.TransportError]) -> None:
        self._how = how
        self.took: dict[str, list[Any]] = defaultdict(list)
        self.asked: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(seconds())
        if seconds() < _HOUR_S:
            return await self._away(request)
        self.took[request.url.path.removeprefix("/api")].append(json.loads(request.content or b"null"))
        return httpx.Response(204, stream=httpx.ByteStream(b""))

    async def _away(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self._how, int):
            asked = {} if self._how == 500 else {"Retry-After": "20"}
            return httpx.Response(self._how, headers=asked, stream=httpx.ByteStream(b"{}"))
        if issubclass(self._how, httpx.TimeoutException):
            await asyncio.sleep(request.extensions["timeout"]["read"])
        raise self._how("away")


@pytest.mark.parametrize("how", [500, 503, 429, httpx.ConnectError, httpx.ReadTimeout])
async def test_children_wait_for_an_hour_and_then_all_is_there_once_and_in_order(
    tmp_path: Path,
    how: int | type[httpx.TransportError],
) -> None:
    api = Away(how)
    known = Secrets.model_validate({"api_url": "http://prefect.test/api", "control_key": CONTROL_KEY})
    async with forward.client(through=api) as client:
        upstream = Upstream(known, client, verify=None)
        async with (
            spooling(RelaySettings(), upstream, tmp_path) as spool,
            served(main.make_app(RelaySettings(), known, upstream, spool)) as relay,
        ):
            runs = [an_id() for _ in _SPEAKS_AT_S]
            for run in runs:
                await _open(relay, run)
            held: list[float] = []
            async with asyncio.TaskGroup() as children:
                for run, at in zip(runs, _SPEAKS_AT_S, strict=True):
                    children.create_task(_speaks(relay, run, at, held))
                    children.create_task(_renews(relay, run, held))
            await _quiet()
    assert max(held) <= 10.0
    for run in runs:
        assert [body["n"] for body in api.took[f"/flow_runs/{run}/labels"]] == list(range(_CALLS))
        assert api.took[f"/v2/concurrency_limits/leases/{run}/renew"]
    assert seconds() < _HOUR_S + 330
    calls_a_second = len([at for at in api.asked if at < _HOUR_S]) / _HOUR_S
    assert calls_a_second < 0.5


def served(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay")


async def _open(relay: httpx.AsyncClient, run: str) -> None:
    body = {"run_id": run, "token_sha256": sha256(TOKEN + run), "results": None, "ttl_s": 10 * _HOUR_S}
    key = {"Authorization": f"Bearer {CONTROL_KEY}"}
    (await relay.put(f"/flowgroup/attempts/{an_id()}", json=body, headers=key)).raise_for_status()


async def _speaks(relay: httpx.AsyncClient, run: str, at: float, held: list[float]) -> None:
    await asyncio.sleep(at)
    for number in range(_CALLS):
        answer = await _patiently(relay, run, held, "PATCH", f"/flow_runs/{run}/labels", {"n": number})
        assert answer.status_code == 204


async def _renews(relay: httpx.AsyncClient, run: str, held: list[float]) -> None:
    """Its engine would end it if it were told anything else."""
    while seconds() < _HOUR_S + _RENEW_EVERY_S:
        path = f"/v2/concurrency_limits/leases/{run}/renew"
        began = seconds()
        answer = await _asked(relay, run, "POST", path, {"lease_duration": 300})
        held.append(seconds() - began)
        assert answer.status_code == 204
        await asyncio.sleep(_RENEW_EVERY_S)


async def _patiently(relay: httpx.AsyncClient, run: str, held: list[float], *call: Any) -> httpx.Response:
    """As Prefect's client does: in maintenance it waits as long as it is told, and does not count."""
    while True:
        began = seconds()
        answer = await _asked(relay, run, *call)
        held.append(seconds() - began)
        if answer.status_code != 503:
            return answer
        assert answer.headers["prefect-maintenance"] == "true"
        await asyncio.sleep(float(answer.headers["retry-after"]))


async def _asked(relay: httpx.AsyncClient, run: str, method: str, path: str, body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN + run}"}
    return await relay.request(method, f"/api{path}", json=body, headers=headers)


async def _quiet() -> None:
    """What the relay still owes."""
    while [task for task in asyncio.all_tasks() if task.get_name().startswith(("lease ", "call to the API"))]:
        await asyncio.sleep(1)
