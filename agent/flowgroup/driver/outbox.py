"""
The desk's outbox: what all children say, sent to the relay together.

In: each child's socket (`shipper.py` has the other end). Out: `POST /flowgroup/records`, a batch of all children's logs,
and one of their events, in the order in which each child said them. Nothing that was read is dropped while the desk
lives: while the relay does not answer the batch is sent again, and when too much waits no more is read, so that
children wait.
"""

import asyncio
import contextlib
import json
import socket
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from flowgroup import log
from flowgroup.edge import tls
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.retry import pause_s

_log = log.get()
_GATHER_S = 0.1
_BATCH_BYTES = 2 * 1024 * 1024
_BATCH_RECORDS = 500  # what the relay makes one call of
_KINDS = {"log": "logs", "event": "events"}
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_MOST_LINE_BYTES = 8 * 1024 * 1024
_CALL_TRIES = 20
_CALL_AFTER_S = 1.0
_TIMEOUT_S = 30.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK_BYTES = 256 * 1024


@dataclass
class Mailbag:
    """What one attempt has said and the relay has not taken yet. `beats`: run id to the task that emits its heartbeat."""

    token: str
    waiting: int = 0
    is_empty: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)  # the child says nothing more
    beats: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    calls: "set[asyncio.Task[None]]" = field(default_factory=set)

    def __post_init__(self) -> None:
        self.is_empty.set()

    def add(self, count: int) -> None:
        self.waiting += count
        if self.waiting:
            self.is_empty.clear()
        else:
            self.is_empty.set()


@dataclass(frozen=True, slots=True)
class _Item:
    bag: Mailbag
    raw: bytes


@dataclass(slots=True)
class _Queue:
    """One kind of records. What is sent again is of one kind, so that what the API has of the other is not sent twice."""

    items: deque[_Item] = field(default_factory=deque)
    sent: int = 0  # batches, by whose number the relay knows one that comes again
    something: asyncio.Event = field(default_factory=asyncio.Event)

    def batch(self) -> list[_Item]:
        """As much as one call may have; at least one item if there is any."""
        batch: list[_Item] = []
        size = 0
        while self.items and len(batch) < _BATCH_RECORDS:
            if batch and size + len(self.items[0].raw) > _BATCH_BYTES:
                break
            batch.append(self.items.popleft())
            size += len(batch[-1].raw)
        if not batch:
            self.something.clear()
        return batch


class Outbox:
    """`client` speaks to the relay at `relay`. `run` sends; `collect` reads one child."""

    def __init__(self, client: httpx.AsyncClient, relay: Endpoint) -> None:
        self._client = client
        self._relay = relay
        self._name = uuid.uuid4().hex
        self._queues = {kind: _Queue() for kind in _KINDS.values()}
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    async def collect(self, theirs: socket.socket, bag: Mailbag) -> None:
        """Take what one child says until its socket is closed. Owns `theirs`."""
        reader, writer = await asyncio.open_connection(sock=theirs, limit=_CHUNK_BYTES)
        rest = b""
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(bag, line)
                if len(rest) > _MOST_LINE_BYTES:
                    _log.warning("record_dropped", reason="it is too large", bytes=len(rest))
                    rest = b""
                await self._room.wait()
        except OSError as exc:
            _log.warning("child_not_heard", reason=str(exc))
        finally:
            for beat in bag.beats.values():
                beat.cancel()
            bag.is_over.set()
            writer.close()

    def log(self, bag: Mailbag, record: dict[str, Any]) -> None:
        """A line of the desk's own in an attempt's log, as Prefect's `POST /logs/` takes it."""
        self._put(bag, "logs", json.dumps(record).encode())

    async def emptied(self, bag: Mailbag, timeout_s: float) -> bool:
        """Wait until the relay has all that the attempt said. False if that took longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await bag.is_empty.wait()
                await asyncio.gather(*bag.calls, return_exceptions=True)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Send, without end."""
        await asyncio.gather(*(self._run(kind, queue) for kind, queue in self._queues.items()))

    async def _run(self, kind: str, queue: _Queue) -> None:
        while True:
            await queue.something.wait()
            await asyncio.sleep(_GATHER_S)
            while batch := queue.batch():
                queue.sent += 1
                await self._send(kind, batch, queue.sent)

    # One child's lines

    def _take(self, bag: Mailbag, line: bytes) -> None:
        try:
            item = json.loads(line) if line else {}
            kind, value = next(iter(item.items())) if item else ("", None)
        except (ValueError, AttributeError, RecursionError):  # a line that was cut off; user code may write there too
            return
        if kind in _KINDS:
            self._put(bag, _KINDS[kind], json.dumps(value).encode())
        elif kind == "call":
            self._call(bag, value)
        elif kind == "beat":
            self._beat(bag, value)

    def _put(self, bag: Mailbag, kind: str, raw: bytes) -> None:
        self._queues[kind].items.append(_Item(bag, raw))
        self._queues[kind].something.set()
        self._bytes += len(raw)
        bag.add(1)
        if self._bytes > _MOST_WAITING_BYTES:
            self._room.clear()

    def _beat(self, bag: Mailbag, told: Any) -> None:
        try:
            run, event, every_s = str(told[0]), told[1], float(told[2])
        except (TypeError, ValueError, IndexError):
            return
        if before := bag.beats.pop(run, None):
            before.cancel()
        if isinstance(event, dict):
            bag.beats[run] = asyncio.create_task(self._beating(bag, event, max(1.0, every_s)), name=f"heartbeat {run}")

    async def _beating(self, bag: Mailbag, event: dict[str, Any], every_s: float) -> None:
        """The child has emitted the first one itself."""
        while True:
            await asyncio.sleep(every_s)
            now = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat()}
            self._put(bag, "events", json.dumps({**event, **now}).encode())

    def _call(self, bag: Mailbag, told: Any) -> None:
        try:
            method, path, body = str(told[0]), str(told[1]), told[2]
        except (TypeError, IndexError):
            return
        task = asyncio.create_task(self._called(bag, method, path, body), name=f"{method} {path}")
        bag.calls.add(task)
        task.add_done_callback(bag.calls.discard)

    async def _called(self, bag: Mailbag, method: str, path: str, body: Any) -> None:
        """After the run's start, when its engine does not wait for the same server any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CALL_AFTER_S):
                await bag.is_over.wait()
        headers = {"Authorization": f"Bearer {bag.token}"}
        for tries in range(1, _CALL_TRIES):
            try:
                url = f"{self._relay.url}/api{path}"
                answer = await self._client.request(method, url, json=body, headers=headers, timeout=_TIMEOUT_S)
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code not in _AGAIN:
                return
            await asyncio.sleep(pause_s(tries, None, base_s=0.5))

    # Batches

    async def _send(self, kind: str, batch: list[_Item], number: int) -> None:
        self._bytes -= sum(len(item.raw) for item in batch)
        if self._bytes <= _MOST_WAITING_BYTES:
            self._room.set()
        body = _encoded(kind, batch, self._name, number)
        tries = 0
        while (trouble := await self._posted(body)) is not None:
            tries += 1
            if tries == 1:
                _log.warning("relay_takes_no_records", reason=str(trouble), then="sending again")
            await asyncio.sleep(0.2 + pause_s(tries, trouble.retry_after_s, cap_s=5.0))
        for item in batch:
            item.bag.add(-1)

    async def _posted(self, body: bytes) -> Transient | None:
        """None when the relay has answered for good; else why it has to be sent again."""
        try:
            answer = await self._client.post(
                f"{self._relay.url}/flowgroup/records",
                content=body,
                headers={"Content-Type": "application/json"},
                timeout=_TIMEOUT_S,
            )
        except httpx.HTTPError as exc:
            return Transient(tls.explained(exc, self._relay) or f"{type(exc).__name__} {exc}")
        if answer.status_code in _AGAIN:
            return Transient(f"it answered {answer.status_code}", retry_after_s=_retry_after_s(answer))
        if answer.is_error:
            _log.error("records_refused", status=answer.status_code, answer=answer.text[:300])
        return None


def _retry_after_s(answer: httpx.Response) -> float | None:
    """What the relay asked for: it has made a number of whatever the API said."""
    try:
        return float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None


def _encoded(kind: str, batch: list[_Item], desk: str, number: int) -> bytes:
    """
    `{"desk": …, "number": …, "attempts": [{"token": …, "logs": […]}, …]}` (or `events`), from records that are JSON already.
    """
    bags: dict[int, tuple[str, list[bytes]]] = {}
    for item in batch:
        bags.setdefault(id(item.bag), (item.bag.token, []))[1].append(item.raw)
    parts = [
        b'{"token":%s,"%s":[%s]}' % (json.dumps(token).encode(), kind.encode(), b",".join(records))
        for token, records in bags.values()
    ]
    return b'{"desk":"%s","number":%d,"attempts":[%s]}' % (desk.encode(), number, b",".join(parts))
