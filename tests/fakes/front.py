"""A proxy before a real Prefect server: Cloud's paths, a key, rate limits, refused websockets, answers of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flowgroup.edge import forward, pump

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass
class Front:
    """
    `prefix` must stand before every path, `key` must be shown as Bearer; every `limited_every`th call is answered 429.

    `slow_s` is how long the first Running of every run is on its way, as when SQLite waits for its lock; `landed` has
    what the server answered to those. `refused` counts calls without path or key, `limited` those that were told to wait.
    """

    server: str
    prefix: str = "/api"
    key: str | None = None
    limited_every: int = 0
    websockets: bool = True
    slow_s: float = 0.0
    late: set[str] = field(default_factory=set)
    landed: list[int] = field(default_factory=list)
    url: str = ""
    calls: int = 0
    refused: list[str] = field(default_factory=list)
    limited: int = 0

    def app(self, client: httpx.AsyncClient) -> Starlette:

        async def call(request: Request) -> Response:
            self.calls += 1
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                self.refused.append(request.url.path)
                return PlainTextResponse("who are you?", 401)
            if not request.url.path.startswith(f"{self.prefix}/"):
                self.refused.append(request.url.path)
                return PlainTextResponse("no such path", 404)
            if self.limited_every and self.calls % self.limited_every == 0:
                self.limited += 1
                return PlainTextResponse("slowly", 429, headers={"Retry-After": "1"})
            path = request.url.path.removeprefix(self.prefix)
            request.scope["path"] = f"/api{path}"
            request.scope["raw_path"] = f"/api{path}".encode()
            kept = [(name, value) for name, value in request.scope["headers"] if name != b"authorization"]
            bare = Request({**request.scope, "headers": kept}, request.receive)
            is_late = self._is_late(path, await bare.body())
            await asyncio.sleep(self.slow_s * is_late)
            answer = await forward.pass_on(bare, client, base_url=self.server, hold_s=30, limit_bytes=8 << 20)
            self.landed += [answer.status_code] * is_late
            return answer

        async def events(socket: WebSocket) -> None:
            if not self.websockets:
                await pump.deny(socket, PlainTextResponse("no websockets here", 403))
                return
            path = socket.url.path.removeprefix(self.prefix)
            url = f"{self.server.replace('http', 'ws', 1)}/api{path}"
            await pump.pass_on(socket, url=url, hold_s=10)

        return Starlette(
            routes=[WebSocketRoute("/{path:path}", events), Route("/{path:path}", call, methods=METHODS)],
        )

    def _is_late(self, path: str, body: bytes) -> bool:
        """Whether it is a run's first Running."""
        is_running = path.startswith("/flow_runs/") and path.endswith("/set_state") and b'"RUNNING"' in body
        if not (self.slow_s and is_running) or path in self.late:
            return False
        self.late.add(path)
        return True


@contextlib.contextmanager
def serving(front: Front) -> Iterator[Front]:
    """The proxy in a thread of its own; `front.url` is the API's address behind it."""
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        async with forward.client() as client:
            config = uvicorn.Config(front.app(client), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
            config.timeout_graceful_shutdown = 2
            servers.append(uvicorn.Server(config))
            servers[0].capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
            await servers[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    while not (servers and servers[0].started):
        thread.join(0.01)
    front.url = f"http://127.0.0.1:{servers[0].servers[0].sockets[0].getsockname()[1]}{front.prefix}"
    try:
        yield front
    finally:
        servers[0].should_exit = True
        thread.join(15)
