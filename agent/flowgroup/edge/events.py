"""
Prefect's event stream: a hint that there is something to look at, never the truth about it.

Without the stream everything works; it is the poll that serves then. So a refused connection is said once and tried
again with growing pauses, for ever.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from flowgroup import log
from flowgroup.edge.greeted import greeted
from flowgroup.edge.wire import credentials_of
from flowgroup.errors import Transient
from flowgroup.metrics import EVENTS_CONNECTED
from flowgroup.model.ids import RunId
from flowgroup.retry import pause_s
from flowgroup.settings import PrefectSettings

_RUN = "prefect.flow-run."
_DUE = ("Scheduled", "Late", "Resuming", "AwaitingRetry")
_CANCELLING = ("Cancelling",)
_SUSPENDED = ("Suspended",)
_OVER = ("Cancelled",)
_CHANGED = ("prefect.deployment.updated", "prefect.work-pool.updated", "prefect.work-queue.updated")
_NAMES = [f"{_RUN}{name}" for name in (*_DUE, *_CANCELLING, *_SUSPENDED, *_OVER)] + list(_CHANGED)
_STEADY_S = 30.0  # a connection that held for so long starts the pauses anew


@dataclass(frozen=True, slots=True)
class Notice:
    """Look at something: `connected` means at everything, for what happened before is not told."""

    kind: Literal["connected", "due", "cancelling", "suspended", "over", "changed"]
    run: RunId | None = None


class Events:
    """The stream of one pool's events."""

    def __init__(self, settings: PrefectSettings, pool_id: str) -> None:
        assert settings.api_url is not None
        self._url = f"{settings.api_url}/events/out".replace("http", "ws", 1)
        self._settings = settings
        self._credentials = credentials_of(settings)
        self._pool_id = pool_id
        self._socket: ClientConnection | None = None
        self.is_connected = False

    def follow(self, pool_id: str) -> None:
        """From now on another pool's: ours was deleted and made again. The stream begins anew."""
        self._pool_id = pool_id
        if self._socket:
            self._socket.transport.abort()

    async def notices(self) -> AsyncIterator[Notice]:
        """Notices without end; reconnects by itself."""
        tries = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                async for notice in self._stream():
                    yield notice
                reason = "the server closed the stream"
            except (OSError, TimeoutError, WebSocketException, ValueError, Transient) as exc:
                reason = str(exc) or type(exc).__name__
            finally:
                self._connected(False)
            tries = 1 if asyncio.get_running_loop().time() - began > _STEADY_S else tries + 1
            said = log.get().warning if tries == 1 else log.get().debug
            said("event_stream_away", reason=reason, url=self._url, meanwhile="polling")
            await asyncio.sleep(0.5 + pause_s(tries, None, base_s=0.5))

    async def tried(self) -> None:
        """Connect once, and hang up. Raises Transient, with the reason, when the stream cannot be had."""
        try:
            async with aclosing(self._stream()) as stream:
                await anext(stream)
        except (OSError, TimeoutError, WebSocketException, ValueError) as exc:
            raise Transient(f"{self._url}: {str(exc) or type(exc).__name__}") from exc
        finally:
            self._connected(False)

    async def _stream(self) -> AsyncGenerator[Notice]:
        async with greeted(self._url, self._settings, self._credentials, what="the event stream") as socket:
            self._socket = socket
            await socket.send(json.dumps({"type": "filter", "backfill": False, "filter": _filter(self._pool_id)}))
            self._connected(True)
            yield Notice("connected")
            async for frame in socket:
                if notice := _notice(frame):
                    yield notice

    def _connected(self, is_connected: bool) -> None:
        if is_connected and not self.is_connected:
            log.get().info("event_stream_connected", url=self._url)
        self.is_connected = is_connected
        EVENTS_CONNECTED.set(is_connected)


def _filter(pool_id: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "occurred": {
            "since": (now - timedelta(minutes=1)).isoformat(),
            "until": (now + timedelta(days=365)).isoformat(),
        },
        "event": {"name": _NAMES},
        "any_resource": {"id": [f"prefect.work-pool.{pool_id}"]},
    }


def _notice(frame: str | bytes) -> Notice | None:
    """What a frame wants us to look at. Frames that we cannot read are nothing to look at."""
    try:
        event = json.loads(frame)["event"]
        name, resource = str(event["event"]), str(event["resource"]["prefect.resource.id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not name.startswith(_RUN):
        return Notice("changed")
    run, what = RunId(resource.removeprefix(_RUN)), name.removeprefix(_RUN)
    if what in _SUSPENDED:
        return Notice("suspended", run)
    if what in _OVER:
        return Notice("over", run)
    return Notice("cancelling" if what in _CANCELLING else "due", run)
