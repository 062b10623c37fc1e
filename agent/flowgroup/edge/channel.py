"""
Prefect's worker channel, as far as we use it: a websocket on which the server asks for the teardown of runs that it gave up.

A run that stays Cancelling for five minutes is Cancelled by the server, which then wants its infrastructure gone. Each
message is ours for half a minute (`renew`), until we say that it is done (`ack`); else it comes again, three times in all.
Older servers have no such channel, and nothing is missed then: what is over for the API is found by asking, too.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from flowgroup import log
from flowgroup.edge.greeted import greeted
from flowgroup.edge.wire import credentials_of
from flowgroup.errors import Transient
from flowgroup.model.ids import RunId
from flowgroup.model.variables import POOL_TYPE
from flowgroup.retry import pause_s
from flowgroup.settings import PrefectSettings

_VERSION = "work_pool_worker_channel.v1"
_CAPABILITIES = ("worker_heartbeat.v1", "work_pool_snapshot.v1", "cleanup_delivery.v1")
_KINDS = ("cancelling_timeout_teardown.v1", "pending_claim_teardown.v1")
_AT_ONCE = 16
_STEADY_S = 30.0
_OLD_SERVER_S = 600.0
_OLD_SERVER = frozenset({403, 404, 405})


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Target(_Frame):
    flow_run_id: uuid.UUID


class _Payload(_Frame):
    message_id: uuid.UUID
    reservation_token: str = Field(min_length=1, max_length=10_000, repr=False)
    target: _Target


class _Message(_Frame):
    type: Literal["cleanup.message.v1"]
    payload: _Payload


@dataclass(frozen=True, slots=True)
class Teardown:
    """The server wants this run's infrastructure gone. `id` and `token` are what it knows the message by."""

    run: RunId
    id: str
    token: str


class Channel:
    """The channel of one pool. `worker` is our name there; that we live is said by HTTP, as on servers without a channel."""

    def __init__(self, settings: PrefectSettings, pool: str, worker: str, heartbeat_interval_s: float) -> None:
        assert settings.api_url is not None
        self._url = f"{settings.api_url}/work_pools/{quote(pool, safe='')}/workers/connect".replace("http", "ws", 1)
        self._settings = settings
        self._credentials = credentials_of(settings)
        self._hello = _hello(worker, heartbeat_interval_s)
        self._socket: ClientConnection | None = None

    async def teardowns(self) -> AsyncIterator[Teardown]:
        """What is to be torn down, without end; the same message may come again. Reconnects by itself."""
        tries = 0
        while True:
            began, pause = asyncio.get_running_loop().time(), None
            try:
                async for teardown in self._stream():
                    yield teardown
                reason = "the server closed it"
            except InvalidStatus as exc:
                reason = str(exc)
                pause = _OLD_SERVER_S if exc.response.status_code in _OLD_SERVER else None
            except (OSError, TimeoutError, WebSocketException, ValueError, Transient) as exc:
                reason = str(exc) or type(exc).__name__
            finally:
                self._socket = None
            tries = 1 if asyncio.get_running_loop().time() - began > _STEADY_S else tries + 1
            said = log.get().info if tries == 1 else log.get().debug
            said("worker_channel_away", reason=reason, url=self._url, meanwhile="asking")
            await asyncio.sleep(pause or 0.5 + pause_s(tries, None, base_s=0.5))

    async def renew(self, teardown: Teardown) -> None:
        """It takes longer. A channel that is away by now matters not: the message comes again."""
        await self._say("cleanup.renew.v1", teardown)

    async def ack(self, teardown: Teardown) -> None:
        """It is done."""
        await self._say("cleanup.ack.v1", teardown)

    async def _say(self, type_: str, teardown: Teardown) -> None:
        if self._socket is not None:
            with suppress(ConnectionClosed):
                payload = {"message_id": teardown.id, "reservation_token": teardown.token}
                await self._socket.send(_frame(type_, payload))

    async def _stream(self) -> AsyncIterator[Teardown]:
        async with greeted(self._url, self._settings, self._credentials, what="the worker channel") as socket:
            await socket.send(_frame("worker.hello.v1", self._hello))
            self._socket = socket
            log.get().info("worker_channel_connected", url=self._url)
            async for frame in socket:
                if teardown := teardown_of(frame):
                    yield teardown


def teardown_of(frame: str | bytes) -> Teardown | None:
    """What a frame wants torn down. Other frames, and those that we cannot read, want nothing of us."""
    try:
        payload = _Message.model_validate_json(frame).payload
    except ValidationError:
        return None
    return Teardown(RunId(str(payload.target.flow_run_id)), str(payload.message_id), payload.reservation_token)


def _frame(type_: str, payload: dict[str, Any]) -> str:
    return json.dumps(
        {"type": type_, "id": str(uuid.uuid4()), "sent_at": datetime.now(UTC).isoformat(), "payload": payload}
    )


def _hello(worker: str, heartbeat_interval_s: float) -> dict[str, Any]:
    return {
        "consumer_id": str(uuid.uuid4()),
        "worker_name": worker,
        "worker_type": POOL_TYPE,
        "heartbeat_interval_seconds": max(1, round(heartbeat_interval_s)),
        "supported_channel_versions": [_VERSION],
        "requested_capabilities": list(_CAPABILITIES),
        "handled_cleanup_kinds": list(_KINDS),
        "max_cleanup_concurrency": _AT_ONCE,
        "create_pool_if_not_found": False,
    }
