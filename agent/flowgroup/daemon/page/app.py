"""The page as an ASGI application."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

Json = dict[str, Any]
COOKIE = "flowgroup_page"
_KEPT_S = 12 * 3600
_MOST_BYTES = 4096
_STATIC = {"/page.css": "text/css", "/page.js": "text/javascript"}
_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
Endpoint = Callable[[Request], Awaitable[Response]]


def app(told: Callable[[], Json], token: str, more: Sequence[BaseRoute] = ()) -> Starlette:
    """
    `told` is what `/status.json` answers. Who has not shown the token gets the form that asks for it, and nothing else.

    `more` is served beside, and minds by itself who sees it.
    """
    shown = shown_by(token)

    def behind(endpoint: Callable[[Request], Response]) -> Endpoint:
        async def checked(request: Request) -> Response:
            if not _is_known(request, token, shown):
                return _safe(Response(_read("login.html"), 401, media_type="text/html"))
            return _safe(endpoint(request))

        return checked

    async def login(request: Request) -> Response:
        """The token is in the body, never in an address: those are kept in histories and logs."""
        said = parse_qs((await _beginning(request)).decode(errors="replace")).get("token", [""])[0]
        answer: Response = RedirectResponse("/", 303)
        if hmac.compare_digest(said.encode(), token.encode()):
            answer.set_cookie(COOKIE, shown, max_age=_KEPT_S, httponly=True, samesite="strict")
        return _safe(answer)

    async def static(request: Request) -> Response:
        path = request.url.path
        return _safe(Response(_read(path.removeprefix("/")), media_type=_STATIC[path]))

    return Starlette(
        routes=[
            Route("/", behind(lambda _: Response(_read("index.html"), media_type="text/html"))),
            Route("/status.json", behind(lambda _: JSONResponse(told()))),
            Route("/login", login, methods=["POST"]),
            *(Route(path, static) for path in _STATIC),
            *more,
        ]
    )


def shown_by(token: str) -> str:
    """What a browser keeps instead of the token."""
    return hashlib.sha256(b"flowgroup page:" + token.encode()).hexdigest()


def _is_known(request: Request, token: str, shown: str) -> bool:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    cookie = request.cookies.get(COOKIE, "")
    return hmac.compare_digest(bearer.encode(), token.encode()) or hmac.compare_digest(cookie.encode(), shown.encode())


async def _beginning(request: Request) -> bytes:
    """Of the body; whoever sends more has no token, and is not listened to."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            break
    return body[:_MOST_BYTES]


def _read(name: str) -> bytes:
    return (files("flowgroup.daemon.page") / name).read_bytes()


def _safe(answer: Response) -> Response:
    answer.headers.update(_SAFE)
    return answer
