"""The child's way out, on a real socket."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flowgroup.driver import words
from flowgroup.driver.shipper import Shipper


@pytest.fixture
def ends() -> Iterator[tuple[Shipper, socket.socket]]:
    ours, theirs = socket.socketpair()
    shipper = Shipper(ours.detach())
    with theirs:
        yield shipper, theirs
        shipper.close()


def read_all(shipper: Shipper, end: socket.socket) -> list[Any]:
    shipper.close()
    with end.makefile("rb") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def test_what_is_said_arrives_in_order(ends: tuple[Shipper, socket.socket]) -> None:
    shipper, end = ends
    shipper.log({"message": "one\ntwo", "__payload_size__": 7})
    shipper.event({"event": "e"})
    shipper.call("PATCH", "/flow_runs/1", {"flow_version": "2"})
    shipper.beat("run", None, 30)
    assert read_all(shipper, end) == [
        {"log": {"message": "one\ntwo"}},
        {"event": {"event": "e"}},
        {"call": ["PATCH", "/flow_runs/1", {"flow_version": "2"}]},
        {"beat": ["run", None, 30]},
    ]


def test_text_that_is_not_clean_does_not_cost_the_line(ends: tuple[Shipper, socket.socket]) -> None:
    shipper, end = ends
    shipper.log({"message": "\ud800 \x00 é", "object": object})
    assert read_all(shipper, end)[0]["log"]["message"] == "\ufffd \ufffd é"


def test_a_desk_that_does_not_read_makes_the_writer_wait(ends: tuple[Shipper, socket.socket]) -> None:
    shipper, end = ends
    written: list[int] = []

    def write() -> None:
        for number in range(400):
            shipper.log({"message": "x" * 10_000})
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    taken = b""
    while taken.count(b"\n") < 400:
        taken += end.recv(1 << 20)
    writer.join(10)
    assert len(written) == 400


def test_a_line_that_a_signal_cut_off_costs_only_itself(ends: tuple[Shipper, socket.socket]) -> None:
    shipper, end = ends

    class Ended(BaseException):
        pass

    def ended(*_: Any) -> None:
        raise Ended

    before = signal.signal(signal.SIGUSR1, ended)
    try:
        began: list[bytes] = []
        threading.Thread(target=lambda: (began.append(end.recv(1)), os.kill(os.getpid(), signal.SIGUSR1))).start()
        with pytest.raises(Ended):
            shipper.event({"event": "x" * 3_000_000})  # more than the socket holds: it waits inside of the write
    finally:
        signal.signal(signal.SIGUSR1, before)
    lines: list[bytes] = []

    def read() -> None:
        with end.makefile("rb") as file:
            lines.extend(file)

    reader = threading.Thread(target=read)
    reader.start()
    shipper.log({"message": "after"})
    shipper.close()
    reader.join(10)
    assert json.loads(lines[-1]) == {"log": {"message": "after"}}
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[0])


def test_a_line_of_50_mb_is_cut_with_a_mark_and_leaves_at_once(ends: tuple[Shipper, socket.socket]) -> None:
    shipper, end = ends
    shipper.log({"message": "x" * 50_000_000})
    message = read_all(shipper, end)[0]["log"]["message"]
    assert len(message) == 25_000
    assert message.endswith("… [cut here: 50000000 characters]")


def test_an_event_that_is_too_large_goes_without_its_payload(ends: tuple[Shipper, socket.socket]) -> None:
    shipper, end = ends
    shipper.event({"event": "e", "payload": {"x": ["y" * 10_000] * 1000}})
    event = read_all(shipper, end)[0]["event"]
    assert event["event"] == "e"
    assert "cut off" in event["payload"]["flowgroup"]


def test_secrets_of_the_environment_are_masked(
    ends: tuple[Shipper, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    shipper, end = ends
    for name, value in (
        ("DB", "hunter22"),
        ("MY_API_KEY", "sk-12345678"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("PLAIN", "plain"),
    ):
        monkeypatch.setenv(name, value)
    words.hide({"DB"})
    try:
        shipper.log({"message": "hunter22 sk-12345678 false plain"})
        shipper.event({"event": "e", "payload": {"deep": [{"it": "is hunter22"}]}})
    finally:
        monkeypatch.undo()
        words.hide()
    log, event = read_all(shipper, end)
    assert log["log"]["message"] == "******** ******** false plain"
    assert event["event"]["payload"] == {"deep": [{"it": "is ********"}]}


def test_a_desk_that_is_gone_does_not_matter() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    shipper = Shipper(ours.detach())
    shipper.log({"message": "to nobody"})
    shipper.close()
    shipper.log({"message": "nor now"})
