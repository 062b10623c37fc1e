"""
Events to Prefect Cloud by its websocket `/events/in`, the way in that Prefect's own client takes there.

It has no answers but pongs: that to a ping after an event says that the event was read before it. Events have ids, so one
that is sent again after a pong that was lost is there once.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from flowgroup.edge import pump
from flowgroup.edge.wire import USER_AGENT
from flowgroup.errors import Transient
from flowgroup.relay.upstream import Upstream

_PONG_S = 20.0
_LOOKED_AT_S = 0.3


class Closed(Exception):
    """The API has closed the websocket after something was sent: `code` of RFC 6455, 7.4.1, None if it just broke."""

    def __init__(self, exc: ConnectionClosed) -> None:
        self.code = exc.rcvd.code if exc.rcvd else None
        reason = f"{exc.rcvd.code} {exc.rcvd.reason}".strip() if exc.rcvd else "it broke"
        super().__init__(f"the websocket was closed: {reason}")


class Stream:
    """One websocket, opened when there is something to send and kept until it breaks."""

    def __init__(self, upstream: Upstream, hold_s: float) -> None:
        self._upstream = upstream
        self._hold_s = hold_s
        self._opened = contextlib.AsyncExitStack()
        self._connection: ClientConnection | None = None
        self._sending = asyncio.Lock()

    async def send(self, events: Sequence[bytes]) -> None:
        """
        Return when the API has read them. Raises pump.Denied when it does not let us in, Transient when it is not reached,
        or does not answer, and Closed: then they may be there.
        """
        async with self._sending:
            if self._connection:
                with contextlib.suppress(Closed):  # while nothing was sent: that says nothing of the API, nor of these
                    await self._sent(events)
                    return
            await self._sent(events)

    async def _sent(self, events: Sequence[bytes]) -> None:
        is_kept = False
        try:
            async with asyncio.timeout(self._hold_s + _PONG_S):
                connection = self._connection or await self._open()
                for event in events:
                    await connection.send(event, text=True)
                await (await connection.ping())
            await self._still_open(connection)
            is_kept = True
        except ConnectionClosed as exc:
            raise Closed(exc) from exc
        except TimeoutError as exc:
            raise Transient("no pong in time") from exc
        finally:
            if not is_kept:
                await self._close()

    async def _still_open(self, connection: ClientConnection) -> None:
        """A server may answer a ping before it has looked at what came before, and then close. Raises ConnectionClosed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOKED_AT_S):
                while True:
                    await connection.recv()

    async def _open(self) -> ClientConnection:
        self._connection = await self._opened.enter_async_context(
            pump.upstream(
                self._upstream.socket_url(pump.EVENTS_IN),
                headers=self._upstream.socket_headers(USER_AGENT),
                subprotocols=[],
                hold_s=self._hold_s,
                verify=self._upstream.verify,
            )
        )
        return self._connection

    async def close(self) -> None:
        async with self._sending:
            await self._close()

    async def _close(self) -> None:
        self._connection = None
        await self._opened.aclose()
