"""A fake of Prefect's API: has state, records what it saw, can be told to fail. A real server on loopback."""

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from flowgroup.edge import lines


@dataclass(frozen=True)
class Seen:
    """One call as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Failure:
    """
    How the next `times` calls fail: with a status, after a delay, or by breaking off in the middle. Status 0: they are only
    delayed; `carried_out`: what they ask for is done all the same.
    """

    status: int = 503
    carried_out: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    delay_s: float = 0.0
    breaks_off: bool = False
    times: int = 1_000_000
    path: str | None = None


@dataclass
class FakeAPI:
    """`token` is what it wants in Authorization; `word` in the first frame of a websocket."""

    token: str = "Bearer the-real-token"
    word: str | None = "the-real-token"
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    upgrades: list[dict[str, str]] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    failure: Failure | None = None
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    flow_runs: dict[str, str | None] = field(default_factory=dict)
    task_runs: dict[str, str | None] = field(default_factory=dict)
    to_send: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    upgrade_status: int | None = None
    poison: bytes | None = None  # a body that has it is refused for ever
    poison_code: int = 1008  # how a websocket is closed that brings it
    taken: list[Any] = field(default_factory=list)  # bodies that were not refused
    logs: list[dict[str, Any]] = field(default_factory=list)  # what POST /logs/ was given, and POST /logs/filter finds

    def last(self) -> Seen:
        return self.seen[-1]

    async def call(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode().removeprefix("/api")
        seen = Seen(request.method, path, request.url.query, dict(request.headers), await request.body())
        self.seen.append(seen)
        failed = await self._failed(path)
        if failed is not None:
            return failed
        if seen.headers.get("authorization") != self.token:
            return JSONResponse({"detail": "Unauthorized"}, 401)
        if self.poison and self.poison in seen.body:
            return JSONResponse({"detail": "this will never do"}, 422)
        if seen.body:
            self.taken.append(seen.json())
        if path == "/logs/":
            self.logs += seen.json()
        if path == "/logs/filter":
            return JSONResponse(self.find_logs(seen.json()))
        return self._answer(request.method, path)

    def find_logs(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """What a Prefect server finds: bounds are included, oldest first."""
        runs, times = asked["logs"]["flow_run_id"]["any_"], asked["logs"]["timestamp"]
        first, last = (datetime.fromisoformat(times[name]) for name in ("after_", "before_"))
        found = [
            {**one, "id": str(uuid.uuid4())}
            for one in self.logs
            if one.get("flow_run_id") in runs and first <= datetime.fromisoformat(one["timestamp"]) <= last
        ]
        found.sort(key=lambda one: datetime.fromisoformat(one["timestamp"]))
        return found[asked["offset"] : asked["offset"] + min(asked["limit"], 200)]

    def _answer(self, method: str, path: str) -> Response:
        if (method, path) in self.answers:
            status, body = self.answers[(method, path)]
            return JSONResponse(body, status) if body is not None else Response(status_code=status)
        kind, _, id = path.strip("/").partition("/")
        owners = {"flow_runs": ("parent_task_run_id", self.flow_runs), "task_runs": ("flow_run_id", self.task_runs)}
        if method == "GET" and kind in owners and "/" not in id:
            name, known = owners[kind]
            return JSONResponse({"id": id, name: known[id]}) if id in known else JSONResponse({}, 404)
        return JSONResponse({"path": path})

    async def _failed(self, path: str) -> Response | None:
        failure = self.failure
        if failure is None or failure.times <= 0 or failure.path not in (None, path):
            return None
        failure.times -= 1
        await asyncio.sleep(failure.delay_s)
        if failure.carried_out and path == "/logs/":
            self.logs += self.seen[-1].json()
        if failure.breaks_off:
            return _BrokenOff()
        if failure.status == 0:
            return None
        return Response(failure.body, failure.status, failure.headers)

    async def events(self, socket: WebSocket) -> None:
        self.upgrades.append(dict(socket.headers))
        if self.upgrade_status is not None:
            await socket.send_denial_response(Response(status_code=self.upgrade_status))
            return
        handshake = "prefect" in socket.scope["subprotocols"]
        await socket.accept(subprotocol="prefect" if handshake else None)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            if handshake and not await self._greeted(socket):
                return
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(socket))
                await self._receive(socket)
                sending.cancel()

    async def _greeted(self, socket: WebSocket) -> bool:
        first = await socket.receive_json()
        if first != {"type": "auth", "token": self.word}:
            await socket.close(1008, "Invalid token")
            return False
        await socket.send_json({"type": "auth_success"})
        return True

    async def _receive(self, socket: WebSocket) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                frame = await socket.receive_text()
                if self.poison and self.poison in frame.encode():
                    await socket.close(self.poison_code)
                    return
                self.frames.append(frame)

    async def _send(self, socket: WebSocket) -> None:
        while (text := await self.to_send.get()) is not None:
            await socket.send_text(text)
        await socket.close(1012, "service restart")


class _BrokenOff(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


@contextlib.asynccontextmanager
async def fake_api(**told: Any) -> AsyncIterator[FakeAPI]:
    """A fake API that listens on loopback."""
    api = FakeAPI(**told)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(
        routes=[WebSocketRoute("/api/{path:path}", api.events), Route("/api/{path:path}", api.call, methods=methods)]
    )
    listener = lines.tcp("127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    async with served(app, listener):
        yield api


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def served(app: Any, listener: socket.socket, config: uvicorn.Config | None = None) -> AsyncIterator[None]:
    """Serve an ASGI application on a listening socket, in this loop, until the end of the block."""
    config = config or uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="fake")
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await serving
        listener.close()
