"""A relay of this process on a real Unix socket in front of a fake API, and a child's view of it."""

import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from flowgroup.edge import forward
from flowgroup.health import Health
from flowgroup.relay import main
from flowgroup.relay.spool.spooling import spooling
from flowgroup.relay.upstream import Secrets, Upstream
from flowgroup.settings import RelaySettings
from tests.fakes.upstream import FakeAPI, fake_api, served

CONTROL_KEY = "control-key-of-tests"
TOKEN = "child-token"


def an_id() -> str:
    return str(uuid.uuid4())


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass
class Relay:
    """
    `run` is the flow run of the open attempt; `child` speaks as it does, `daemon` shows the control key.
    """

    api: FakeAPI
    socket: Path
    run: str
    attempt: str
    child: httpx.AsyncClient
    daemon: httpx.AsyncClient

    async def open(self, **told: Any) -> httpx.Response:
        body = {"run_id": self.run, "token_sha256": sha256(TOKEN), "results": None, "ttl_s": 60, **told}
        return await self.daemon.put(f"/flowgroup/attempts/{self.attempt}", json=body)


@contextlib.asynccontextmanager
async def app_in(
    spool: Path, known: Secrets, settings: RelaySettings | None = None, health: Health | None = None
) -> AsyncIterator[Starlette]:
    """The relay's application with its spool in this folder."""
    settings = settings or RelaySettings(hold_s=2.0)
    async with forward.client() as client:
        upstream = Upstream(known, client, verify=None, settings=settings)
        async with spooling(settings, upstream, spool) as opened:
            yield main.make_app(settings, known, upstream, opened, health)


@contextlib.asynccontextmanager
async def relay(
    folder: Path, *, opened: bool = True, settings: RelaySettings | None = None, secrets: Any = None, **told: Any
) -> AsyncIterator[Relay]:
    """A relay with one open attempt. `told` goes to the fake API."""
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(fake_api(**told))
        known = Secrets(
            **{"api_url": api.url, "control_key": CONTROL_KEY, "api_key": "the-real-token", **(secrets or {})}
        )
        app = await stack.enter_async_context(app_in(folder / "relay" / "spool", known, settings))
        path = folder / "relay" / "relay.sock"
        listener = stack.enter_context(main.listening(path))
        await stack.enter_async_context(served(app, listener, main.server_config(app)))
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.AsyncHTTPTransport(uds=str(path)),
                    base_url="http://relay",
                    headers={"Authorization": f"Bearer {key}", "User-Agent": "prefect/3.8.8 (API 0.8.4)"},
                )
            )
            for key in (TOKEN, CONTROL_KEY)
        ]
        made = Relay(api, path, an_id(), an_id(), *clients)
        if opened:
            (await made.open()).raise_for_status()
        yield made


def waits(answer: httpx.Response) -> bool:
    """Whether Prefect's client waits for as long as it takes."""
    assert float(answer.headers["retry-after"]) >= 1.0
    return answer.status_code == 503 and answer.headers["prefect-maintenance"] == "true"
