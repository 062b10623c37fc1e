"""The desk's address on loopback: every child's only way to the API. Passes calls on to the relay as they are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flowgroup.edge import forward, pump
from flowgroup.edge.acks import Acknowledging
from flowgroup.edge.embedded import Embedded
from flowgroup.model.endpoint import Endpoint

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def app(relay: Endpoint, client: httpx.AsyncClient, *, hold_s: float, limit_bytes: int) -> Starlette:
    """Without an answer from the relay within `hold_s` seconds a child is told to wait."""

    async def call(request: Request) -> Response:
        return await forward.pass_on(
            request, client, base_url=relay.url, hold_s=hold_s, limit_bytes=limit_bytes, at=relay
        )

    async def events(socket: WebSocket) -> None:
        await pump.pass_on(socket, url=relay.websocket_url + socket.url.path, hold_s=hold_s, at=relay)

    return Starlette(
        routes=[
            WebSocketRoute("/api/{path:path}", events),
            Route("/api/{path:path}", call, methods=_METHODS),
            Route("/flowgroup/sign", call, methods=["POST"]),
        ]
    )


@contextlib.asynccontextmanager
async def serving(relay: Endpoint, *, hold_s: float, limit_bytes: int) -> AsyncIterator[str]:
    """Serve the gate; gives the API's address (`http://127.0.0.1:<port>/api`)."""
    async with forward.client(at=relay) as client:
        config = uvicorn.Config(
            app(relay, client, hold_s=hold_s, limit_bytes=limit_bytes),
            host="127.0.0.1",
            port=0,
            log_level="warning",
            lifespan="off",
            ws=Acknowledging,
            timeout_graceful_shutdown=1,
        )
        server = Embedded(config)
        serve = asyncio.create_task(server.serve(), name="gate")
        try:
            while not server.started:
                if serve.done():
                    serve.result()
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{server.port}/api"
        finally:
            server.should_exit = True
            await serve
