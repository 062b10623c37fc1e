"""
The child's way out for logs and events: one thread that posts batches to the desk.

Nothing that was put in is dropped while the process lives: while the desk answers 503 the batch is posted again. The
buffer is bounded: a writer that is far ahead waits.
"""

import json
import threading
import time
from collections import deque
from typing import Any

import httpx

_FLUSH_S = 0.1
_BATCH_BYTES = 2 * 1024 * 1024
_BUFFER_BYTES = 64 * 1024 * 1024
_RETRY_S = 1.0
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


class Shipper:
    """Takes log records and events as JSON-able dicts from any thread; posts them in order, a kind at a time."""

    def __init__(self, api_url: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=api_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30.0,
            verify=False,  # noqa: S501  loopback
        )
        self._waiting: dict[str, deque[bytes]] = {"/logs/": deque(), "/events": deque()}
        self._bytes = 0
        self._busy = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._ship, name="flowgroup-shipper", daemon=True)
        self._thread.start()

    def log(self, record: dict[str, Any]) -> None:
        """One record as Prefect's `POST /logs/` takes it (`__payload_size__` is dropped)."""
        self._put("/logs/", {name: value for name, value in record.items() if name != "__payload_size__"})

    def event(self, event: dict[str, Any]) -> None:
        """One event as Prefect's `POST /events` takes it."""
        self._put("/events", event)

    def _put(self, path: str, item: dict[str, Any]) -> None:
        raw = json.dumps(item, default=str).encode("utf-8", "replace")
        with self._changed:
            while self._bytes > _BUFFER_BYTES and not self._closing:
                self._changed.wait(1.0)
            self._waiting[path].append(raw)
            self._bytes += len(raw)
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put in so far is with the desk. False if that took longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (self._bytes or self._busy) and (left := deadline - time.monotonic()) > 0:
                self._changed.notify_all()
                self._changed.wait(min(left, 0.5))
            return not self._bytes and not self._busy

    def close(self) -> None:
        """End the thread; what is not with the desk yet is dropped. After `drain`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._client.close()

    def _ship(self) -> None:
        while True:
            with self._changed:
                while not self._bytes and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
            time.sleep(_FLUSH_S)  # let a batch gather
            for path in self._waiting:
                while batch := self._take(path):
                    self._post(path, batch)
                    with self._changed:
                        self._busy = False
                        self._changed.notify_all()

    def _take(self, path: str) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        with self._changed:
            queue = self._waiting[path]
            while queue and (not batch or size + len(queue[0]) < _BATCH_BYTES):
                batch.append(queue.popleft())
                size += len(batch[-1])
            self._bytes -= size
            self._busy = bool(batch)
        return batch

    def _post(self, path: str, batch: list[bytes]) -> None:
        body = b"[" + b",".join(batch) + b"]"
        while True:
            try:
                answer = self._client.post(path, content=body, headers={"Content-Type": "application/json"})
            except httpx.HTTPError:
                time.sleep(_RETRY_S)
                continue
            if answer.status_code not in _AGAIN:
                if answer.is_error:
                    print(
                        f"flowgroup: the API refused {len(batch)} records at {path}: {answer.status_code} {answer.text[:500]}"
                    )
                return
            time.sleep(float(answer.headers.get("Retry-After", _RETRY_S)))
