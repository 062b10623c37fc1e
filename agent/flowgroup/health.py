"""
`/livez`, `/readyz` and `/metrics`: is this process moving, may it be relied on, and its figures.

Liveness never depends on anybody else: it says only that our own loops come round.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from flowgroup import log
from flowgroup.errors import Refused
from flowgroup.metrics import CONTENT_TYPE, DAEMON, exposition

_REQUEST_TIMEOUT_S = 5.0
_MAX_REQUEST_BYTES = 8192
_PHRASES = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(slots=True)
class Health:
    """What the loops of this process have said about themselves. `room` has the metrics of its own."""

    is_ready: bool = False
    room: CollectorRegistry = DAEMON
    pages: dict[str, Callable[[], dict[str, Any]]] = field(default_factory=dict)
    """More to be read, by path: each is answered as JSON, to whoever reaches the port, and so has no secrets."""
    _limits_s: dict[str, float] = field(default_factory=dict)
    _moved_at: dict[str, float] = field(default_factory=dict)

    def loop(self, name: str, *, limit_s: float) -> Callable[[], None]:
        """Register a loop. It calls what it gets whenever it comes round, at least every `limit_s` seconds."""
        self._limits_s[name] = limit_s

        def moved() -> None:
            self._moved_at[name] = asyncio.get_running_loop().time()

        moved()
        return moved

    def forget_loops(self) -> None:
        """They have ended, as they should."""
        self._limits_s.clear()

    def ready(self) -> None:
        self.is_ready = True

    def stuck(self) -> list[str]:
        """Loops that have not come round for longer than they may."""
        now = asyncio.get_running_loop().time()
        return [name for name, limit_s in self._limits_s.items() if now - self._moved_at[name] > limit_s]

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        match path:
            case "/livez":
                stuck = self.stuck()
                return (
                    (503, "text/plain", f"stuck: {', '.join(stuck)}\n".encode())
                    if stuck
                    else (200, "text/plain", b"ok\n")
                )
            case "/readyz":
                return (200, "text/plain", b"ok\n") if self.is_ready else (503, "text/plain", b"not ready yet\n")
            case "/metrics":
                return 200, CONTENT_TYPE, exposition(self.room)
            case _ if page := self.pages.get(path):
                return 200, "application/json", json.dumps(page()).encode()
        return 404, "text/plain", b"there are /livez, /readyz and /metrics\n"


@asynccontextmanager
async def serve(
    health: Health, host: str, port: int, *, settings: str = "FLOWGROUP_HEALTH_HOST, FLOWGROUP_HEALTH_PORT"
) -> AsyncIterator[int]:
    """Answer during the block. Yields the port. Raises Refused, naming the settings, when it is taken."""
    async with asyncio.TaskGroup() as answers:

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers.create_task(_answer(health, reader, writer), name="health answer")

        try:
            server = await asyncio.start_server(begin, host, port, limit=_MAX_REQUEST_BYTES)
        except OSError as exc:
            raise Refused(f"cannot listen on {host}:{port} ({settings}): {exc}") from exc
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


async def _answer(health: Health, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n", 1)[0].split(" ")
            code, kind, body = health.answer(head[1].partition("?")[0]) if len(head) > 1 else (404, "text/plain", b"")
            if head[0] not in {"GET", "HEAD"}:
                code, kind, body = 405, "text/plain", b""
            lines = (
                f"HTTP/1.1 {code} {_PHRASES[code]}",
                f"Content-Type: {kind}",
                f"Content-Length: {len(body)}",
                "Connection: close",
            )
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head[0] == "HEAD" else body))
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        log.get().debug("health_request_dropped", reason=type(exc).__name__)
    finally:
        writer.close()
