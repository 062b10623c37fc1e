"""Prefect's websockets, as far as all that the daemon opens are alike: how they are dialled, and the handshake."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from flowgroup.edge.credentials import Credentials
from flowgroup.edge.wire import headers_for, tls_for
from flowgroup.errors import Transient
from flowgroup.settings import PrefectSettings

_OPEN_TIMEOUT_S = 10.0
_MAX_FRAME_BYTES = 4 * 1024 * 1024


@asynccontextmanager
async def greeted(
    url: str, settings: PrefectSettings, credentials: Credentials, *, what: str
) -> AsyncIterator[ClientConnection]:
    """
    A websocket that has taken our key. Raises what websockets raises when there is none, TimeoutError when it says nothing,
    and Transient, naming `what`, when it does not take the key.
    """
    shown = credentials.shown()
    headers = {**headers_for(settings), **({"Authorization": shown} if shown else {})}
    async with connect(
        url,
        subprotocols=[Subprotocol("prefect")],
        additional_headers={name: value for name, value in headers.items() if name != "User-Agent"},
        user_agent_header=headers["User-Agent"],
        ssl=tls_for(settings) if url.startswith("wss") else None,
        open_timeout=_OPEN_TIMEOUT_S,
        max_size=_MAX_FRAME_BYTES,
    ) as socket:
        await socket.send(json.dumps({"type": "auth", "token": credentials.word()}))
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            answer = await socket.recv()
        if not _is_welcome(answer):
            raise Transient(f"{what} does not take our key")
        yield socket


def _is_welcome(answer: str | bytes) -> bool:
    try:
        read = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(read, dict) and read.get("type") == "auth_success"
