"""A record as the spool keeps it: ready to be sent, with what is needed to find it again at the API."""

import json
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_ROW_BYTES = 100  # what a row takes on disk beside its body
_EXACT_CHARS = len("2026-01-01T00:00:00.000000+00:00")
_LAST_OF_A_RUN = 10_000
_LAST_OF_ALL = 50_000


class Kind(StrEnum):
    """Of records; also the names of the tables, and of what a driver sends."""

    EVENTS = "events"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Row:
    """`body` is JSON. `run` and `at_us` (since 1970) are what a line is found by at the API; at_us 0: it cannot be."""

    body: bytes
    run: str = ""
    at_us: int = 0
    level: int = 0

    @property
    def size(self) -> int:
        """In bytes, as the spool's bound counts it."""
        return len(self.body) + _ROW_BYTES


def event_row(event: dict[str, Any]) -> Row:
    """With an id, by which the API knows an event that it has already."""
    return Row(json.dumps({"id": str(uuid.uuid4()), **event}).encode())


def log_row(record: dict[str, Any], times: "Times") -> Row:
    """With a time of its own within its run: a line has no id, so this is what tells it from others."""
    run, at = record.get("flow_run_id"), _moment(record.get("timestamp"))
    level = record.get("level")
    level = level if isinstance(level, int) else 0
    if not isinstance(run, str) or at is None:
        return Row(json.dumps(record).encode(), level=level)
    own = times.own(run, (at - _EPOCH) // _US)
    moment = _EPOCH + own * _US
    if moment != at or len(record["timestamp"]) > _EXACT_CHARS:
        record = {**record, "timestamp": moment.isoformat()}
    return Row(json.dumps(record).encode(), run, own, level)


def at_us(timestamp: object) -> int | None:
    """Microseconds since 1970 of a time in ISO form, as the API writes it."""
    moment = _moment(timestamp)
    return None if moment is None else (moment - _EPOCH) // _US


def from_us(at: int) -> str:
    """The same the other way."""
    return (_EPOCH + at * _US).isoformat()


def _moment(timestamp: object) -> datetime | None:
    if not isinstance(timestamp, str):
        return None
    try:
        read = datetime.fromisoformat(timestamp)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@dataclass
class _Run:
    taken: dict[int, int] = field(default_factory=dict)  # each with a moment after it that may be free
    order: deque[int] = field(default_factory=deque)


class Times:
    """
    The times of the last lines of each run, so that no two are the same: of 10,000 lines a run, and of 50,000 in all, the
    runs that were silent for longest forgotten first.
    """

    def __init__(self, of_a_run: int = _LAST_OF_A_RUN, of_all: int = _LAST_OF_ALL) -> None:
        self._of_a_run = of_a_run
        self._of_all = of_all
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._count = 0

    def own(self, run: str, at: int) -> int:
        """`at` (in microseconds), or the first moment after it that no line of this run has."""
        known = self._runs.setdefault(run, _Run())
        self._runs.move_to_end(run)
        passed = []
        while (after := known.taken.get(at)) is not None:
            passed.append(at)
            at = after
        known.taken.update(dict.fromkeys((*passed, at), at + 1))  # so that a thousand lines of one moment stay cheap
        known.order.append(at)
        self._count += 1
        if len(known.order) > self._of_a_run:
            del known.taken[known.order.popleft()]
            self._count -= 1
        while self._count > self._of_all and len(self._runs) > 1:
            _, gone = self._runs.popitem(last=False)
            self._count -= len(gone.order)
        return at
