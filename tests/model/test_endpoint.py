from pathlib import Path

import pytest

from flowgroup.errors import Refused
from flowgroup.model.endpoint import Endpoint

CA = Path("/etc/flowgroup/ca/ca.crt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run/daemon.sock", Endpoint("unix", socket=Path("/run/daemon.sock"))),
        ("tls://daemon.ns.svc:8443", Endpoint("tls", host="daemon.ns.svc", port=8443, ca=CA)),
        ("https://relay.ns.svc:4280", Endpoint("https", host="relay.ns.svc", port=4280, ca=CA)),
        ("https://[::1]:4280", Endpoint("https", host="::1", port=4280, ca=CA)),
    ],
)
def test_an_address_is_read_and_written_again_as_it_was(text: str, expected: Endpoint) -> None:
    read = Endpoint.parse(text, ca=CA)
    assert read == expected
    assert str(read) == text


def test_a_slash_at_the_end_means_nothing() -> None:
    assert str(Endpoint.parse("https://relay:4280/")) == "https://relay:4280"


def test_calls_know_where_they_go() -> None:
    over_tls = Endpoint.parse("https://[::1]:4280")
    assert (over_tls.url, over_tls.websocket_url) == ("https://[::1]:4280", "wss://[::1]:4280")
    on_a_socket = Endpoint.at(Path("/run/relay.sock"))
    assert (on_a_socket.url, on_a_socket.websocket_url) == ("http://relay", "ws://relay")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "relay.sock",
        "relay:4280",
        "http://relay:4280",
        "tcp://relay:4280",
        "tls://daemon",
        "tls://:8443",
        "tls://daemon:0",
        "tls://daemon:eight",
        "tls://daemon:70000",
        "tls://dae mon:8443",
        "https://relay:4280/api",
        "https://relay:4280?x=1",
        "https://relay:4280#x",
        "https://[::1:4280",
    ],
)
def test_what_is_no_address_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(Refused, match=r"Give an absolute path of a Unix socket, tls://host:port or https://host:port"):
        Endpoint.parse(text)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(Refused) as refused:
        Endpoint.parse("https://user:hunter2@relay:4280")
    assert "hunter2" not in str(refused.value)
