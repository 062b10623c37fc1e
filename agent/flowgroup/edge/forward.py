"""
Pass one HTTP call on to an upstream, and its answer back: what the relay stands on.

Bodies of requests are read whole, so that Content-Length is always there and a call can be sent again; bodies
of answers are read whole when they are small, so that a connection that breaks in the middle is still a clean
error. Bytes are never decoded: what was gzip stays gzip.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.request import getproxies

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from flowgroup.edge import swift, tls
from flowgroup.edge.lines import notices_silence
from flowgroup.edge.swift import Swift
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint

# Prefect's server closes connections that were idle for 5 s: ours must be dropped before.
KEEPALIVE_S = 4.0
# Our own relay keeps them for longer, and a handshake costs a run some milliseconds.
_OVER_TLS_S = 60.0
BODY_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 200
_READ_WHOLE_BYTES = 1024 * 1024
_NO_BODY = (204, 304)

HeaderList = list[tuple[bytes, bytes]]
# Of one connection, not of the call (RFC 9110, 7.6.1). Host and Content-Length are made anew.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_NOT_PASSED = _HOP_BY_HOP | frozenset((b"host", b"content-length", b"expect"))  # those are made anew
_SAFE_TO_REPEAT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_STALE = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class BodyRefused(Exception):
    """A request's body that is not passed on: `answer` says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.answer = JSONResponse({"detail": detail}, status, headers={"connection": "close"})


class TooLarge(Exception):
    """An answer that is not read to its end."""


class Passing(httpx.AsyncClient):
    """Without what httpx does around a call: cookies, redirects, authentication, hooks. Nothing that is passed on needs it."""

    async def send(self, request: httpx.Request, *, stream: bool = False, **_: Any) -> httpx.Response:
        transport = self._transport_for_url(request.url)
        if not isinstance(transport, Swift):
            swift.put_together(request)
        response = await transport.handle_async_request(request)
        response.request = request
        if not stream:
            await response.aread()
        return response


def client(
    *,
    at: Endpoint | None = None,
    verify: ssl.SSLContext | bool = True,
    keepalive_s: float = KEEPALIVE_S,
    through: httpx.AsyncBaseTransport | None = None,
) -> Passing:
    """
    A client for calls that are passed on. It keeps no cookies, follows no redirects and adds no headers of
    its own. Connections to others than ours are used again within `keepalive_s` seconds.

    To a room of ours (`at`) it goes straight, and raises Refused when the authorities' file cannot be read; to anybody
    else it goes through the environment's proxies, as Prefect's client does.
    """
    no_cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    if at is not None:
        made = Passing(transport=transport(at), cookies=no_cookies, trust_env=False)
    else:
        own = through or (None if getproxies() else _swift(verify=verify, keepalive_s=keepalive_s))
        made = Passing(verify=verify, limits=_limits(keepalive_s), cookies=no_cookies, transport=own)
    made.headers.clear()
    return made


def transport(at: Endpoint) -> httpx.AsyncBaseTransport:
    """To a room of ours, over its Unix socket or TLS. Raises Refused when the authorities' file cannot be read."""
    if at.socket:  # nothing is verified there, and the certificates for it would take 7 MB
        return _swift(uds=str(at.socket), verify=False, keepalive_s=KEEPALIVE_S)
    return _swift(verify=tls.trusting(at.ca), keepalive_s=_OVER_TLS_S, socket_options=notices_silence())


def _swift(**told: Any) -> Swift:
    return Swift(most=MAX_CONNECTIONS, **told)


def _limits(keepalive_s: float) -> httpx.Limits:
    return httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=50, keepalive_expiry=keepalive_s)


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """
    The request's whole body. Raises BodyRefused for one that is too large (413) or comes too slowly (408).
    """
    too_large = f"the body has more than {limit_bytes} bytes"
    if int(request.headers.get("content-length") or 0) > limit_bytes:
        raise BodyRefused(413, too_large)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    raise BodyRefused(413, too_large)
    except TimeoutError as exc:
        raise BodyRefused(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from exc
    except ClientDisconnect as exc:
        raise BodyRefused(400, "the client went away before its body had arrived") from exc
    return bytes(body)


def passing_headers(headers: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """The headers that belong to the call itself, to be sent on. Names are lower case already (ASGI)."""
    kept = list(headers)
    listed = {name.strip().lower() for key, value in kept if key == b"connection" for name in value.split(b",")}
    return [(key, value) for key, value in kept if key not in _NOT_PASSED and key not in listed]


async def send(client: Passing, request: httpx.Request) -> httpx.Response:
    """
    Send, and return when the answer's headers are there. Raises Transient when there is no answer.

    An idle connection may be closed by the other side at the moment at which we write to it. Such a call is
    sent once more if it is safe to repeat. A POST may have been carried out, so it is left to the caller:
    told 503, Prefect's client sends it again, as it would have without us.
    """
    try:
        return await client.send(request, stream=True)
    except _STALE as exc:
        if request.method not in _SAFE_TO_REPEAT:
            raise Transient(f"the connection broke: {type(exc).__name__}") from exc
    except httpx.HTTPError as exc:
        raise Transient(_cause(exc)) from exc
    try:
        return await client.send(request, stream=True)
    except httpx.HTTPError as exc:
        raise Transient(_cause(exc)) from exc


async def read_small(response: httpx.Response) -> bytes | None:
    """
    The answer's raw body if it says that it is small, else None: then it is still to be read. Raises
    Transient.
    """
    length = "0" if response.status_code in _NO_BODY else response.headers.get("content-length", "")
    if not length.isdigit() or int(length) > _READ_WHOLE_BYTES:
        return None
    return await read_whole(response)


async def read_whole(response: httpx.Response, *, limit_bytes: int | None = None) -> bytes:
    """The answer's raw body, whatever it says of its size. Raises Transient; TooLarge beyond the limit, if there is one."""
    chunks, size = [], 0
    try:
        async for chunk in response.aiter_raw():
            chunks.append(chunk)
            size += len(chunk)
            if limit_bytes is not None and size > limit_bytes:
                raise TooLarge(f"the API's answer has more than {limit_bytes} bytes: ask for less of it")
        return b"".join(chunks)
    except httpx.HTTPError as exc:
        raise Transient(f"the answer broke off: {type(exc).__name__}") from exc
    finally:
        await response.aclose()


def answer(response: httpx.Response, body: bytes | None, headers: HeaderList | None = None) -> Response:
    """
    Starlette's form of an upstream's answer. `body` as `read_small` gave it; `headers` instead of the
    answer's own.
    """
    made = Response(body, response.status_code) if body is not None else _Streamed(response)
    kept = (
        passing_headers((name.lower(), value) for name, value in response.headers.raw) if headers is None else headers
    )
    made.raw_headers = [(name, value) for name, value in kept if name not in (b"date", b"server")]
    length = response.headers.get("content-length")
    if length is not None:  # also of a HEAD: it says how long the body would have been
        made.raw_headers.append((b"content-length", length.encode()))
    return made


async def exchange(client: Passing, request: httpx.Request, *, hold_s: float) -> tuple[httpx.Response, bytes | None]:
    """Send, and read the answer if it is small, within `hold_s` seconds. Raises Transient."""
    try:
        async with asyncio.timeout(hold_s):
            response = await send(client, request)
            return response, await read_small(response)
    except TimeoutError as exc:
        raise Transient(f"no answer within {hold_s:g} s") from exc


def build(
    method: str, url: httpx.URL, headers: HeaderList, body: bytes, *, hold_s: float, target: bytes
) -> httpx.Request:
    """
    A request with these headers and no others but Host and Content-Length, to `target` (path and query, encoded) at `url`'s
    server. It is sent by a client of ours.
    """
    extensions = {"timeout": httpx.Timeout(hold_s).as_dict(), swift.TARGET: target}
    return httpx.Request(method, url, headers=headers, content=body, extensions=extensions)


def awaiting(request: httpx.Request, read_s: float) -> httpx.Request:
    """The same request, whose answer is waited for so long; every other step as before."""
    request.extensions["timeout"]["read"] = read_s
    return request


def away(reason: str, *, retry_after_s: float | None = None) -> Response:
    """
    The answer while something behind us is away: Prefect's client waits and tries again, without counting.

    `Retry-After` is spread over 1 to 3 s, or over a quarter more than what was asked for, so that callers do
    not come back together. `reason` is for people and reaches user code: nothing secret.
    """
    asked = min(retry_after_s, 300.0) if retry_after_s is not None else 0.0
    wait_s = asked * random.uniform(1.0, 1.25) if asked > 0 else random.uniform(1.0, 3.0)  # noqa: S311
    headers = {"prefect-maintenance": "true", "retry-after": f"{wait_s:.2f}"}
    return JSONResponse({"detail": reason}, 503, headers=headers)


class _Streamed(StreamingResponse):
    """
    A large answer, passed on as it comes. If it breaks off, so does ours: the client must see that it is not
    whole.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(_chunks(response), response.status_code)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except httpx.HTTPError:
            return  # the server closes the connection of an answer that was not finished


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    finally:
        await response.aclose()


def _cause(exc: httpx.HTTPError) -> str:
    if isinstance(exc, httpx.TimeoutException):
        return f"no answer in time: {type(exc).__name__}"
    found = tls.certificate_trouble(exc)
    return f"cannot be reached: {found or type(exc).__name__}"
