"""The child's way out, against a real HTTP server that can be told to fail."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flowgroup.driver.shipper import Shipper


@dataclass
class FakeDesk:
    """`answers` are given first, one a call; then 201. `got` is what was taken, by path."""

    answers: list[int] = field(default_factory=list)
    got: dict[str, list[Any]] = field(default_factory=lambda: {"/api/logs/": [], "/api/events": []})
    calls: int = 0


@pytest.fixture
def desk() -> Iterator[tuple[FakeDesk, str]]:
    fake = FakeDesk()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.calls += 1
            status = fake.answers.pop(0) if fake.answers else 201
            if status == 201:
                fake.got[self.path] += body
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "0.05")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake, f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    thread.join()
    server.server_close()


def test_records_arrive_once_in_order_and_in_batches(desk: tuple[FakeDesk, str]) -> None:
    shipper = Shipper(desk[1], "token")
    for number in range(500):
        shipper.log({"message": number, "__payload_size__": 1})
        shipper.event({"id": number})
    assert shipper.drain(10)
    shipper.close()
    assert [record["message"] for record in desk[0].got["/api/logs/"]] == list(range(500))
    assert [event["id"] for event in desk[0].got["/api/events"]] == list(range(500))
    assert all("__payload_size__" not in record for record in desk[0].got["/api/logs/"])
    assert desk[0].calls < 50


def test_an_answer_of_503_is_waited_out_and_nothing_is_lost(desk: tuple[FakeDesk, str]) -> None:
    desk[0].answers[:] = [503, 503, 503]
    shipper = Shipper(desk[1], "token")
    shipper.log({"message": "kept"})
    assert shipper.drain(10)
    shipper.close()
    assert desk[0].got["/api/logs/"] == [{"message": "kept"}]


def test_what_the_api_refuses_for_ever_does_not_hold_up_the_rest(
    desk: tuple[FakeDesk, str], capsys: pytest.CaptureFixture[str]
) -> None:
    desk[0].answers[:] = [422]
    shipper = Shipper(desk[1], "token")
    shipper.log({"message": "bad"})
    assert shipper.drain(10)
    shipper.log({"message": "good"})
    assert shipper.drain(10)
    shipper.close()
    assert desk[0].got["/api/logs/"] == [{"message": "good"}]
    assert "refused 1 records" in capsys.readouterr().out
