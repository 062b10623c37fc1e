"""A record as the spool keeps it: ready to be sent, with what is needed to find it again at the API."""

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_ROW_BYTES = 100  # what a row takes on disk beside its body
_EXACT_CHARS = len("2026-01-01T00:00:00.000000+00:00")
_LAST_OF_A_RUN = 10_000
_LAST_OF_ALL = 50_000
_SILENT_S = 120.0


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


@dataclass(slots=True)
class _Run:
    taken: dict[int, int] = field(default_factory=dict)  # as they came; each with a moment that may be free
    spoke_at: float = 0.0

    def forget_half(self) -> int:
        """The older ones; how many. Half at once: to take each dict's first again and again would go through all gaps."""
        gone = len(self.taken) // 2
        self.taken = dict(islice(self.taken.items(), gone, None))
        return gone


class Times:
    """
    The times of the last lines of each run, so that no two are the same: of 10,000 lines a run at least, and of 50,000 in
    all, the runs that were silent for longest forgotten first. A run that said nothing for two minutes is forgotten as well:
    whatever it says next is of a later time.
    """

    def __init__(
        self,
        of_a_run: int = _LAST_OF_A_RUN,
        of_all: int = _LAST_OF_ALL,
        silent_s: float = _SILENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._of_a_run = of_a_run
        self._of_all = of_all
        self._silent_s = silent_s
        self._clock = clock
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._count = 0

    def own(self, run: str, at: int) -> int:
        """`at` (in microseconds), or the first moment after it that no line of this run has."""
        known = self._runs.get(run) or self._runs.setdefault(run, _Run())
        self._runs.move_to_end(run)
        known.spoke_at = self._clock()
        passed = []
        while (after := known.taken.get(at)) is not None:
            passed.append(at)
            at = after
        known.taken.update(dict.fromkeys((*passed, at), at + 1))  # so that a thousand lines of one moment stay cheap
        self._count += 1
        if len(known.taken) > 2 * self._of_a_run:
            self._count -= known.forget_half()
        self._forget(known.spoke_at)
        return at

    def _forget(self, now: float) -> None:
        while len(self._runs) > 1:
            longest = next(iter(self._runs.values()))
            if self._count <= self._of_all and now - longest.spoke_at < self._silent_s:
                break
            self._runs.popitem(last=False)
            self._count -= len(longest.taken)
