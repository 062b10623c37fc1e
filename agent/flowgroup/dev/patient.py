"""The API of our own Prefect server, asked as patiently as Prefect's own client asks: SQLite is busy now and then."""

import itertools
import random
import time

import httpx

_PATIENCE_S = 90.0
_PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # short ones: whether the server is busy is a matter of luck, not of waiting
_LAST_PAUSE_S = 0.8
_BUSY = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS)
_KEEPALIVE_S = 2.0  # the server closes idle connections after 5 s


class Patient(httpx.HTTPTransport):
    def __init__(self) -> None:
        super().__init__(limits=httpx.Limits(keepalive_expiry=_KEEPALIVE_S))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + _PATIENCE_S
        for pause_s in itertools.chain(_PAUSES_S, itertools.repeat(_LAST_PAUSE_S)):
            answer = super().handle_request(request)
            if not _is_busy(request, answer) or time.monotonic() > deadline:
                return answer
            answer.close()
            time.sleep(pause_s * random.uniform(0.3, 1))  # noqa: S311  several ask at once
        raise AssertionError("the pauses never end")


def _is_busy(request: httpx.Request, answer: httpx.Response) -> bool:
    """Reading may be tried again after anything that went wrong in the server."""
    return answer.status_code in _BUSY or (request.method == "GET" and answer.is_server_error)


def api_at(url: str) -> httpx.Client:
    """A client of this address alone, whatever proxies the environment names."""
    return httpx.Client(base_url=url, timeout=90, trust_env=False, transport=Patient())
