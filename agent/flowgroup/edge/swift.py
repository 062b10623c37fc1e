"""
httpx over aiohttp's connections: a call costs a quarter of the processor time that it costs over httpx's own (httpcore, h11).

Used where calls are passed on, so nothing is added to them, and bytes are never decoded: no cookies, no redirects, no headers
of aiohttp's, the path as it is encoded.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from aiohttp.connector import AddrInfoType
from yarl import URL

_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_CHUNK_BYTES = 64 * 1024
_MOST_HEADER_BYTES = 64 * 1024

TARGET = "flowgroup.target"
"""A request's extension: its path and query, encoded. To make another URL of httpx's takes longer than to send the call."""


class Swift(httpx.AsyncBaseTransport):
    """
    To one Unix socket (`uds`), or to anybody. Connections that were idle for `keepalive_s` seconds are not used again; at
    most `most` are open. To be used in one event loop.
    """

    def __init__(
        self,
        *,
        uds: str | None = None,
        verify: ssl.SSLContext | bool = True,
        keepalive_s: float,
        most: int,
        socket_options: Iterable[tuple[int, int, int]] = (),
    ) -> None:
        self._uds, self._verify, self._keepalive_s, self._most = uds, verify, keepalive_s, most
        self._socket_options = tuple(socket_options)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        waits = request.extensions.get("timeout", {})
        timeout = aiohttp.ClientTimeout(
            total=None, connect=waits.get("pool"), sock_connect=waits.get("connect"), sock_read=waits.get("read")
        )
        body = await request.aread()
        with _told():
            answer = await self._opened().request(
                request.method,
                _address(request),
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
                data=body or None,
                allow_redirects=False,
                timeout=timeout,
            )
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": (answer.reason or "").encode()}
        stream = _Stream(answer)
        return httpx.Response(answer.status, headers=list(answer.raw_headers), stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Made when it is needed first: only then there is a loop for sure."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_NOT_ADDED,
                auto_decompress=False,
                trust_env=False,
                max_line_size=_MOST_HEADER_BYTES,
                max_field_size=_MOST_HEADER_BYTES,
            )
            self._session._retry_connection = False  # what may be sent again is for `forward.send` to say
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        if self._uds is not None:
            return aiohttp.UnixConnector(self._uds, keepalive_timeout=self._keepalive_s, limit=self._most)
        return aiohttp.TCPConnector(
            ssl=self._verify,
            keepalive_timeout=self._keepalive_s,
            limit=self._most,
            use_dns_cache=False,
            socket_factory=self._socket if self._socket_options else None,
        )

    def _socket(self, found: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = found
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        for option in self._socket_options:
            made.setsockopt(*option)
        return made


def put_together(request: httpx.Request) -> None:
    """For another transport, which does not know of TARGET."""
    if (target := request.extensions.pop(TARGET, None)) is not None:
        request.url = request.url.copy_with(raw_path=target)


def _address(request: httpx.Request) -> URL:
    """Encoded already."""
    target = request.extensions.get(TARGET)
    if target is None:
        return URL(str(request.url), encoded=True)
    url = request.url
    authority = b"@".join(part for part in (url.userinfo, url.netloc) if part)
    return URL(f"{url.scheme}://{authority.decode()}{target.decode()}", encoded=True)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told():
            async for chunk in self._answer.content.iter_chunked(_CHUNK_BYTES):
                yield chunk

    async def aclose(self) -> None:
        """An answer that was not read to its end takes its connection with it."""
        self._answer.release() if self._answer.content.at_eof() else self._answer.close()


@contextmanager
def _told() -> Iterator[None]:
    """aiohttp's errors as httpx has them: those of the way to the server (nothing was sent) apart from all others."""
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError, TimeoutError) as exc:
        kind = httpx.ReadTimeout if isinstance(exc, aiohttp.SocketTimeoutError) else httpx.ConnectTimeout
        raise kind(str(exc)) from exc
    except aiohttp.ClientConnectorError as exc:
        what_is_wrong = getattr(exc, "certificate_error", exc)
        raise httpx.ConnectError(str(exc)) from what_is_wrong
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError) as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise httpx.ReadError(str(exc)) from exc
    except ValueError as exc:
        raise httpx.UnsupportedProtocol(str(exc)) from exc
