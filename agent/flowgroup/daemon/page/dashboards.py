"""
Each cluster's Dask dashboard through the page: pages and websockets as they are, and nothing of the page's own.

A scheduler runs the user's code, and so does what it shows in a browser: it is sandboxed there into an origin that is nobody's,
and neither side has the other's cookies. What opens a dashboard is its address (`model/dashboards.py`).
"""

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from flowgroup.edge import pump
from flowgroup.errors import Transient
from flowgroup.model.dashboards import PREFIX, path
from flowgroup.model.ids import ClusterName

_TIMEOUT_S = 10.0
_ASKED = frozenset({"accept", "accept-encoding", "if-modified-since", "if-none-match", "range", "user-agent"})
_TOLD = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "vary",
    }
)
_SAFE = {
    "content-security-policy": "sandbox allow-scripts; default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_NONE = "There is no such dashboard: the cluster has gone, or it has no workers."
_SILENT = (
    "The scheduler of this cluster shows no dashboard ({}). It may be starting, the image of its runs may be without bokeh, it "
    "may have been made before FLOWGROUP_DASHBOARDS was set, or a NetworkPolicy may be in the way."
)


class Dashboards:
    """`at` says where a cluster's scheduler serves its dashboard, `http://host:port`; None where it has none."""

    def __init__(self, key: str, at: Callable[[ClusterName], str | None]) -> None:
        self._key = key
        self._at = at
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connections to schedulers are made during the block."""
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as self._client:
            yield
        self._client = None

    def link(self, cluster: ClusterName) -> str | None:
        """The path to it from the page's root."""
        return f"{path(self._key, cluster)}/status" if self._at(cluster) else None

    @property
    def routes(self) -> list[BaseRoute]:
        below = PREFIX + "/{cluster}/{word}"
        return [Route(below + "{rest:path}", self._get), WebSocketRoute(below + "{rest:path}", self._pump)]

    async def _get(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return _answer(PlainTextResponse(_NONE, 404))
        to, rest = found
        if rest in ("", "/"):
            return _answer(RedirectResponse(f"{path(self._key, request.path_params['cluster'])}/status"))
        assert self._client is not None
        headers = {name: value for name, value in request.headers.items() if name in _ASKED}
        try:
            asked = self._client.build_request(request.method, to, headers=headers)
            answer = await self._client.send(asked, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return _answer(PlainTextResponse(_SILENT.format(type(exc).__name__), 502))
        told = {name: value for name, value in answer.headers.items() if name in _TOLD}
        end = BackgroundTask(answer.aclose)
        if answer.is_redirect:
            return _answer(PlainTextResponse("It is elsewhere.", 502, background=end))
        return _answer(StreamingResponse(answer.aiter_raw(), answer.status_code, told, background=end))

    async def _pump(self, socket: WebSocket) -> None:
        found = self._found(socket)
        if found is None:
            await pump.deny(socket, Response(status_code=404))
            return
        offered, to = list(socket.scope["subprotocols"]), found[0].replace("http", "ws", 1)
        try:
            async with pump.near(to, subprotocols=offered, hold_s=_TIMEOUT_S) as behind:
                await socket.accept(subprotocol=behind.subprotocol)
                await pump.pump(socket, behind)
        except WebSocketDisconnect:
            return  # the browser went away before it was let in
        except pump.Denied as exc:
            await pump.deny(socket, Response(status_code=exc.status))
        except Transient:
            await pump.deny(socket, Response(status_code=502))

    def _found(self, asked: HTTPConnection) -> tuple[str, str] | None:
        """The scheduler's address for this, and what of the path is below the dashboard's; None without the right word."""
        cluster = ClusterName(asked.path_params["cluster"])
        whole = asked.scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
        known = path(self._key, cluster)
        beginning, rest = whole[: len(known)], whole[len(known) :]
        is_known = hmac.compare_digest(beginning.encode(), known.encode()) and rest[:1] in ("", "/")
        at = self._at(cluster) if is_known else None
        query = asked.scope["query_string"].decode("latin-1")
        return (f"{at}{whole}" + (f"?{query}" if query else ""), rest) if at else None


def _answer(answer: Response) -> Response:
    answer.headers.update(_SAFE)
    return answer
