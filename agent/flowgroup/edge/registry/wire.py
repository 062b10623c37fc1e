"""
One call to a registry: bounded in time and in size, over TLS.

Plain http is for this machine's own registry alone: over any other, somebody on the way could say which code runs.
"""

import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httpx

from flowgroup.errors import Permanent, Transient

MAX_BODY_BYTES = 4 * 1024 * 1024
_REDIRECTS = 5
_STEP_TIMEOUT_S = 4.0
# A digest is one of the body as it is, so it may not come compressed.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "flowgroup"}


@dataclass(frozen=True, slots=True)
class Answer:
    """`host` is who gave it, after redirects."""

    host: str
    status: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> dict[str, Any]:
        """The object that it is, or an empty one."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def client(transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """What calls are made with. Plain http never leaves this machine, so no proxy has a part in it."""
    return httpx.Client(transport=transport, headers=_HEADERS, mounts={} if transport else {"http://": None})


def host_of(url: str | httpx.URL) -> str:
    """The host and, unless it is the usual one, the port."""
    return httpx.URL(url).netloc.decode()


def scheme_of(host: str) -> str:
    """How a registry is spoken to."""
    return "http" if is_here(httpx.URL(f"//{host}").host) else "https"


def is_here(host: str) -> bool:
    """Whether it is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Wire:
    """A client and the moment until which all of its calls must be done."""

    client: httpx.Client
    deadline: float

    def call(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, data: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer, after redirects, which take no credentials to another host. Raises Transient and Permanent."""
        try:
            return self._followed(self.client.build_request(method, url, headers=headers, data=data))
        except httpx.TimeoutException as exc:
            raise Transient("its registry does not answer in time") from exc
        except httpx.TransportError as exc:
            raise Transient(f"its registry cannot be reached ({exc or type(exc).__name__})") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise Permanent(f"its registry's answer cannot be used ({exc})") from exc

    def _followed(self, request: httpx.Request) -> Answer:
        for _ in range(_REDIRECTS + 1):
            if request.url.scheme != "https" and not is_here(request.url.host):
                raise Permanent(f"its registry would have {request.url.host!r} asked without TLS")
            request.extensions["timeout"] = httpx.Timeout(self._left_s()).as_dict()
            with closing(self.client.send(request, stream=True)) as response:
                if response.next_request is None or request.method == "POST":  # what is posted is a secret
                    return self._read(response)
                request = response.next_request
        raise Permanent("its registry's redirects do not end")

    def _read(self, response: httpx.Response) -> Answer:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            self._left_s()
            if len(body) > MAX_BODY_BYTES:
                raise Permanent(f"its registry's answer has more than {MAX_BODY_BYTES} bytes")
        return Answer(host_of(response.request.url), response.status_code, response.headers, bytes(body))

    def _left_s(self) -> float:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise Transient("its registry does not answer in time")
        return min(left_s, _STEP_TIMEOUT_S)
