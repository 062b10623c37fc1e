"""The desk's address on loopback: every child's only way to the API. Passes calls on to the relay as they are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from flowgroup.driver.tunnel import Tunnels
from flowgroup.edge import pump, tls
from flowgroup.edge.acks import Acknowledging
from flowgroup.edge.embedded import Embedded
from flowgroup.edge.lines import dialled, tcp
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint

_LOOPBACK = "127.0.0.1"


@contextlib.asynccontextmanager
async def serving(relay: Endpoint, *, hold_s: float) -> AsyncIterator[str]:
    """
    Serve the gate; gives the API's address (`http://127.0.0.1:<port>/api`). A child is told to wait where the relay does not
    begin to answer within `hold_s` seconds. Raises Refused when the authorities' file of the relay cannot be read.
    """
    tls.checked(relay)
    async with _websockets(relay, hold_s) as port:

        async def to_websockets(protocol: asyncio.Protocol) -> asyncio.Transport:
            try:
                made, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, _LOOPBACK, port)
            except OSError as exc:
                raise Transient(f"the driver ends: {exc}") from exc
            return made

        async def to_relay(protocol: asyncio.Protocol) -> asyncio.Transport:
            made, _ = await dialled(relay, lambda: protocol)
            return made

        tunnels = Tunnels(to_relay, to_websockets, hold_s)
        server = await asyncio.get_running_loop().create_server(tunnels.child, sock=tcp(_LOOPBACK, 0))
        try:
            yield f"http://{_LOOPBACK}:{server.sockets[0].getsockname()[1]}/api"
        finally:
            server.close()
            tunnels.close()


@contextlib.asynccontextmanager
async def _websockets(relay: Endpoint, hold_s: float) -> AsyncIterator[int]:
    """Websockets are passed on frame by frame: what was acknowledged has arrived. Yields the port."""

    async def events(socket: WebSocket) -> None:
        await pump.pass_on(socket, url=relay.websocket_url + socket.url.path, hold_s=hold_s, at=relay)

    config = uvicorn.Config(
        Starlette(routes=[WebSocketRoute("/api/{path:path}", events)]),
        host=_LOOPBACK,
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
        yield server.port
    finally:
        server.should_exit = True
        await serve
