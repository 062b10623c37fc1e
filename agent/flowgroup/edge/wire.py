"""
HTTP to Prefect's API: one call, its answer as JSON or one of our errors. No retries here: who owns the loop tries again.

`PREFECT_API_URL` is used as it is, with Cloud's `/accounts/…/workspaces/…` in it, and paths are appended.
"""

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from flowgroup.edge.credentials import Credentials, Shown
from flowgroup.edge.fence import Fence
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.metrics import API_REQUESTS, API_SECONDS, code_class
from flowgroup.settings import PrefectSettings

API_VERSION = "0.8.4"
# Part of the protocol: the server takes the concurrency lease away from runs that an unknown client sets to Running.
USER_AGENT = f"prefect/3.8.8 (API {API_VERSION})"
MAX_ANSWER_BYTES = 100 * 1024 * 1024
# Below the server's 5 s, so that we never write into a connection that it is just closing.
KEEPALIVE_S = 4.0
_AGAIN = frozenset({408, 425, 429})
_SAID_CHARS = 300


class Unauthorized(Permanent):
    """The API does not take our key."""


class NotFound(Permanent):
    """The API does not know the thing (any more)."""


class Conflict(Permanent):
    """The thing exists already."""


class Gone(Permanent):
    """The thing was ours and is not any more."""


_NEVER: dict[int, type[Permanent]] = {404: NotFound, 409: Conflict, 410: Gone}


def headers_for(settings: PrefectSettings) -> dict[str, str]:
    """What every call carries beside the credentials."""
    return {
        "User-Agent": USER_AGENT,
        "X-PREFECT-API-VERSION": API_VERSION,
        **settings.client_custom_headers,
    }


def credentials_of(settings: PrefectSettings) -> Credentials:
    """Raises Refused, naming the variable, when they cannot be read."""
    return Credentials(
        key=settings.api_key,
        auth_string=settings.api_auth_string,
        key_file=settings.api_key_file,
        auth_string_file=settings.api_auth_string_file,
    )


def tls_for(settings: PrefectSettings) -> ssl.SSLContext:
    """TLS as the settings say: an own certificate authority, or (on request only) no check at all."""
    try:
        context = ssl.create_default_context(cafile=settings.api_ssl_cert_file and str(settings.api_ssl_cert_file))
    except OSError as exc:
        raise Refused(f"cannot read {settings.api_ssl_cert_file} (PREFECT_API_SSL_CERT_FILE): {exc}") from exc
    if settings.api_tls_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Wire:
    """Calls to one Prefect API. `url` has no slash at its end."""

    url: str
    http: httpx.AsyncClient
    timeout_s: float = 60.0
    _csrf: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: Any = None, *, route: str | None = None, **query: str) -> Any:
        """
        One call. Returns the answer's JSON, None if it is empty.

        Raises Transient (the same call may succeed later), Unauthorized, NotFound, Conflict, Gone or another
        Permanent. `route` is the path with its ids left out, for the metrics.
        """
        try:
            return await self._once(method, path, body, route or path, query)
        except _CsrfWanted:
            await self._fetch_csrf()
            return await self._once(method, path, body, route or path, query)

    async def _once(self, method: str, path: str, body: Any, route: str, query: dict[str, str]) -> Any:
        try:
            request = self.http.build_request(
                method, f"{self.url}{path}", json=body, params=query or None, headers=self._csrf
            )
        except (ValueError, httpx.InvalidURL) as exc:  # a number or a letter that the API itself has told us
            raise Permanent(f"{method} {route} cannot be asked for: {exc}") from exc
        with API_SECONDS.labels(route, method).time():
            answer = await self._answer(request, route)
        if answer.code >= httpx.codes.MULTIPLE_CHOICES:
            raise answer.trouble()
        return answer.json() if answer.body else None

    async def _answer(self, request: httpx.Request, route: str) -> "_Answer":
        code = "none"
        try:
            async with asyncio.timeout(self.timeout_s):  # httpx counts each chunk anew
                response = await self.http.send(request, stream=True)
                code = code_class(response.status_code)
                return await _read(response)
        except httpx.UnsupportedProtocol as exc:
            raise Refused(f"PREFECT_API_URL is {self.url!r}, which is not an http address") from exc
        except (httpx.RequestError, TimeoutError) as exc:
            raise Transient(f"the API at {self.url} (PREFECT_API_URL) does not answer: {_told(exc)}") from exc
        finally:
            API_REQUESTS.labels(route, request.method, code).inc()

    async def _fetch_csrf(self) -> None:
        client = str(uuid.uuid4())
        token = await self._once("GET", "/csrf-token", None, "/csrf-token", {"client": client})
        if not isinstance(token, dict) or not isinstance(token.get("token"), str):
            raise Permanent(f"the answer of {self.url}/csrf-token has no token")
        self._csrf = {"Prefect-Csrf-Token": token["token"], "Prefect-Csrf-Client": client}


class _CsrfWanted(Permanent):
    """The server checks CSRF tokens, and we have none that it takes."""


@asynccontextmanager
async def connected(
    settings: PrefectSettings, *, fence: Fence | None = None, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Wire]:
    """A wire to the API that the settings name; `fence` is asked before each call. Raises Refused when they are not usable."""
    if not settings.api_url:
        raise Refused("PREFECT_API_URL is not set: where is Prefect's API? (for example http://127.0.0.1:4200/api)")
    try:
        _check_address(settings.api_url)
        client = httpx.AsyncClient(
            headers=headers_for(settings),
            auth=Shown(credentials_of(settings)),
            timeout=settings.api_request_timeout,
            verify=_verified(settings),
            limits=httpx.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE_S),
            event_hooks={"request": [(fence or Fence()).before]},
            transport=transport,
        )
    except (httpx.InvalidURL, ValueError) as exc:  # UnicodeEncodeError (a header) is a ValueError
        raise Refused(f"PREFECT_API_URL {settings.api_url!r} or the headers for it are not usable: {exc}") from exc
    async with client:
        yield Wire(settings.api_url, client, 2 * settings.api_request_timeout)


def _verified(settings: PrefectSettings) -> ssl.SSLContext | bool:
    """Without TLS nothing is verified, and no certificates are loaded; a file that is named must be readable all the same."""
    is_tls = str(settings.api_url).startswith("https")
    return tls_for(settings) if is_tls or settings.api_ssl_cert_file else False


def _check_address(url: str) -> None:
    if not urlsplit(url).hostname or not httpx.URL(url).host:
        raise ValueError("it names no host")


@dataclass(frozen=True, slots=True)
class _Answer:
    what: str
    url: str
    code: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise Permanent(
                f"the answer of {self.url} is not JSON: is PREFECT_API_URL the API's address (it ends in /api)?"
            ) from exc

    def trouble(self) -> Exception:
        """The error that this answer is."""
        said = self._said()
        if self.code in _AGAIN or self.code >= httpx.codes.INTERNAL_SERVER_ERROR:
            return Transient(f"{self.what}: {self.code} {said}", retry_after_s=_retry_after_s(self.headers))
        if self.code == httpx.codes.FORBIDDEN and "csrf" in said.lower():
            return _CsrfWanted(said)
        if self.code in {401, 403}:
            return Unauthorized(f"{self.what}: {self.code} {said}. Check PREFECT_API_KEY or PREFECT_API_AUTH_STRING.")
        if self.code < httpx.codes.BAD_REQUEST:
            to = self.headers.get("location", "elsewhere")
            return Permanent(f"{self.what} leads to {to}: set PREFECT_API_URL to the API's own address.")
        return _NEVER.get(self.code, Permanent)(f"{self.what}: {self.code} {said}")

    def _said(self) -> str:
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(body, dict):
            return str(body)[:_SAID_CHARS]
        said = body.get("exception_detail") or body.get("detail") or body.get("exception_message") or body
        return str(said)[:_SAID_CHARS]


async def _read(response: httpx.Response) -> _Answer:
    """Read the body, up to a bound, so that no answer can fill our memory."""
    chunks, size, url = [], 0, str(response.request.url)
    try:
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise Permanent(f"the answer of {url} is larger than {MAX_ANSWER_BYTES} bytes")
            chunks.append(chunk)
    finally:
        await response.aclose()
    what = f"{response.request.method} {url}"
    return _Answer(what, url, response.status_code, response.headers, b"".join(chunks))


def _told(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Retry-After, in seconds or as a date. A value that is neither is no value."""
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        return max(0.0, float(said)) if said.strip()[:1].isdigit() else _until(parsedate_to_datetime(said))
    except (ValueError, OverflowError):
        return None


def _until(moment: datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
