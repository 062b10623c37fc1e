"""What the relay's calls to the API go through."""

import base64

import httpx
import pytest

from flowgroup.edge import forward
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint
from tests.fakes.rude import rude, rude_proxy


def _call(method: str, at: str = "http://x/y", target: bytes = b"/y/z%2e?a=b") -> httpx.Request:
    return forward.build(method, httpx.URL(at), [], b"", hold_s=1.0, target=target)


def test_headers_of_one_connection_are_not_the_calls_own() -> None:
    said = [(b"te", b"x"), (b"keep-alive", b"5"), (b"connection", b"close, X-B"), (b"x-b", b"c"), (b"x-a", b"b")]
    assert forward.passing_headers([*said, (b"host", b"h"), (b"content-length", b"2")]) == [(b"x-a", b"b")]


async def test_a_call_on_a_connection_that_was_just_closed_is_sent_again_if_it_is_safe() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with rude(whole, calls_per_connection=1) as (path, calls), forward.client(at=Endpoint.at(path)) as client:
        for method, count in (("GET", 2), ("GET", 4)):
            del calls[:]
            for _ in range(count // 2):
                request = _call(method)
                response, body = await forward.exchange(client, request, hold_s=1.0)
                assert (response.status_code, body) == (200, b"ok")


async def test_a_post_that_may_have_been_carried_out_is_not_sent_again() -> None:
    async with rude(b"") as (path, calls), forward.client(at=Endpoint.at(path)) as client:
        for method, sent in (("POST", 1), ("GET", 2)):
            del calls[:]
            with pytest.raises(Transient):
                await forward.exchange(client, _call(method), hold_s=1.0)
            assert len(calls) == sent


@pytest.mark.parametrize(("asked", "least", "most"), [(None, 1, 3), (0.0, 1, 3), (10.0, 10, 12.5), (1e9, 300, 375)])
def test_retry_after_is_spread(asked: float | None, least: float, most: float) -> None:
    waits = [float(forward.away("x", retry_after_s=asked).headers["retry-after"]) for _ in range(50)]
    assert all(least <= wait <= most for wait in waits)
    assert len(set(waits)) > 10


async def test_the_path_is_the_calls_own_on_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for name in (
        "ALL_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "all_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    async with rude(whole) as (path, calls), forward.client(at=Endpoint.at(path)) as client:
        await forward.exchange(client, _call("GET"), hold_s=1.0)
        assert calls[0].startswith(b"GET /y/z%2e?a=b HTTP/1.1\r\n")
    async with rude_proxy(whole) as (at, calls):
        monkeypatch.setenv("HTTP_PROXY", f"http://{at}")
        async with forward.client() as client:
            await forward.exchange(client, _call("GET", "http://api.example/y"), hold_s=1.0)
        assert calls[0].startswith(b"GET http://api.example/y/z%2e?a=b HTTP/1.1\r\n")


async def test_a_word_in_the_address_is_shown() -> None:
    async with rude_proxy(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as (at, calls), forward.client() as client:
        await forward.exchange(client, _call("GET", f"http://user:a%20word@{at}/y"), hold_s=1.0)
    assert b"authorization: basic " + base64.b64encode(b"user:a word").lower() in calls[0].lower()
