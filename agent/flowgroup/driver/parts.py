"""
What many tasks of a run have in common, sent once: a task's code, the flow that it belongs to.

A part goes along whole the first time; later only its hash does. A worker that has not seen it asks the run's child.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

PARTS_PATH = "/flowgroup/parts"
_SHELF_BYTES = 64 * 1024 * 1024


class Part(NamedTuple):
    """`data` is None where the one who gets it may have it already, or else asks for it."""

    digest: str
    data: bytes | None


class Parts:
    """In the child: what went out. Kept for workers that ask, from the second time on: what is sent once is not kept."""

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._kept: dict[str, bytes] = {}

    def pack(self, data: bytes) -> Part:
        digest = _digest(data)
        if digest not in self._sent:
            self._sent.add(digest)
            return Part(digest, data)
        self._kept.setdefault(digest, data)
        return Part(digest, None)

    def get(self, digest: str) -> bytes | None:
        return self._kept.get(digest)


def whole(data: bytes) -> Part:
    """A part that nobody will have to ask for: who sends it cannot be asked."""
    return Part(_digest(data), data)


class Shelf:
    """On a worker: the parts that tasks brought or that were asked for; the longest unused go first."""

    def __init__(self, limit_bytes: int = _SHELF_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def take(self, part: Part, ask: Callable[[str], bytes | None]) -> bytes:
        """The part's bytes. Raises LookupError if nobody has them any more."""
        data = part.data or self._found(part.digest) or ask(part.digest)
        if data is None:
            raise LookupError("the run that sent this task has ended: what the task consists of is gone")
        self._put(part.digest, data)
        return data

    def _found(self, digest: str) -> bytes | None:
        with self._lock:
            return self._parts.get(digest)

    def _put(self, digest: str, data: bytes) -> None:
        with self._lock:
            if digest not in self._parts:
                self._bytes += len(data)
            self._parts[digest] = data
            self._parts.move_to_end(digest)
            while self._bytes > self._limit_bytes and len(self._parts) > 1:
                self._bytes -= len(self._parts.popitem(last=False)[1])


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
