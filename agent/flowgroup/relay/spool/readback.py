"""
Which lines of a call whose answer was lost does the API have? They have no ids, so they are found by their run, their time,
which is each line's own within its run, and how they begin.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowgroup.relay.pace import Pace
from flowgroup.relay.spool.disk import Kept
from flowgroup.relay.spool.rows import at_us, from_us
from flowgroup.relay.spool.upward import Unreadable, Upward

_PAGE = 200
_MOST_PAGES = 100
_GAP_US = 5_000_000
_SAME_CHARS = 200

_Key = tuple[str, int, str]


@dataclass
class _Span:
    """Lines near each other in time."""

    first: int
    last: int
    runs: set[str] = field(default_factory=set)


async def missing(kept: Sequence[Kept], upward: Upward, pace: Pace) -> tuple[list[Kept], bool]:
    """
    Those that the API has not, in order; and whether it could be asked for all of them: those that it could not be asked
    for are among them. Raises Transient.
    """
    by_key = {_key(one): one for one in kept if one.row.run and one.row.at_us}
    there: set[_Key] = set()
    readable = len(by_key) == len(kept)
    try:
        for span in _spans(by_key):
            there |= await _read(span, upward, pace)
    except Unreadable:
        readable = False
    return [one for one in kept if _key(one) not in there], readable


def _key(one: Kept) -> _Key:
    try:
        message = json.loads(one.row.body).get("message")
    except (ValueError, AttributeError):
        message = None
    return one.row.run, one.row.at_us, _start(message)


def _start(message: object) -> str:
    """Prefect's server takes NULs out, and Cloud cuts long ones."""
    return str(message).replace("\x00", "")[:_SAME_CHARS]


def _spans(keys: dict[_Key, Kept]) -> Iterator[_Span]:
    span: _Span | None = None
    for run, at, _ in sorted(keys, key=lambda key: key[1]):
        if span is not None and at - span.last > _GAP_US:
            yield span
            span = None
        span = span or _Span(at, at)
        span.last = at
        span.runs.add(run)
    if span is not None:
        yield span


async def _read(span: _Span, upward: Upward, pace: Pace) -> set[_Key]:
    found: set[_Key] = set()
    times = {"after_": from_us(span.first), "before_": from_us(span.last)}
    for page in range(_MOST_PAGES):
        await pace.turn(0)
        entries = await upward.read_logs(
            {
                "logs": {"flow_run_id": {"any_": sorted(span.runs)}, "timestamp": times},
                "sort": "TIMESTAMP_ASC",
                "limit": _PAGE,
                "offset": page * _PAGE,
            }
        )
        found.update(key for entry in entries if (key := _key_of(entry)) is not None)
        if len(entries) < _PAGE:
            return found
    raise Unreadable(f"more than {_PAGE * _MOST_PAGES} lines in one span")


def _key_of(entry: dict[str, Any]) -> _Key | None:
    at = at_us(entry.get("timestamp"))
    return None if at is None else (str(entry.get("flow_run_id")), at, _start(entry.get("message")))
