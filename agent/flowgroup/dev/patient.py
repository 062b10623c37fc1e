"""The API of our own Prefect server, asked as patiently as Prefect's own client asks: SQLite is busy now and then."""

import random
import time

import httpx

_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2, 3.2)
_BUSY = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS)


class Patient(httpx.HTTPTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for pause_s in _PAUSES_S:
            answer = super().handle_request(request)
            if answer.status_code not in _BUSY:
                return answer
            answer.close()
            time.sleep(pause_s * random.uniform(0.3, 1))  # noqa: S311  several ask at once
        return super().handle_request(request)


def api_at(url: str) -> httpx.Client:
    """A client of this address alone, whatever proxies the environment names."""
    return httpx.Client(base_url=url, timeout=90, trust_env=False, transport=Patient())
