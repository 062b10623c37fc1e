"""
The child's way out for logs, events and what need not be waited for: a socket to the desk, which owns what it has read.

Written in the caller's thread, so that a child that is killed has said all that it printed. When the desk is behind,
because the relay is away, the socket is full and the writer waits.
"""

import json
import socket
import threading
from typing import Any

from flowgroup.driver import words


class Shipper:
    """
    One JSON object a line: `{"log": …}`, `{"event": …}`, `{"call": [method, path, body]}` and
    `{"beat": [run, event or null, seconds]}`.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lock = threading.RLock()  # a signal may raise inside of a write, and its handler may log
        self._is_cut = False

    def log(self, record: dict[str, Any]) -> None:
        """One record as Prefect's `POST /logs/` takes it."""
        self._put({"log": words.of_log(record)})

    def event(self, event: dict[str, Any]) -> None:
        """One event as Prefect's `POST /events` takes it."""
        event = words.of_event(event)
        line = json.dumps({"event": event}, default=str)
        if len(line) > words.MOST_EVENT_BYTES:
            line = json.dumps({"event": words.without_payload(event)}, default=str)
        self._write(line.encode() + b"\n")

    def call(self, method: str, path: str, body: dict[str, Any]) -> None:
        """A call to Prefect's API whose answer nobody waits for."""
        self._put({"call": [method, path, body]})

    def beat(self, run: str, event: dict[str, Any] | None, every_s: float) -> None:
        """Emit this event again every so many seconds while the process lives, or (None) no more."""
        self._put({"beat": [run, event, every_s]})

    def close(self) -> None:
        """Nothing more comes."""
        with self._lock:
            self._socket.close()

    def _put(self, item: dict[str, Any]) -> None:
        self._write(json.dumps(item, default=str).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        with self._lock:
            start = b"\n" if self._is_cut else b""
            self._is_cut = True  # until it is whole: what a signal cut off is ended by the next line's start
            try:
                self._socket.sendall(start + line)
            except OSError:  # the desk is gone, and takes us along
                return
            self._is_cut = False
