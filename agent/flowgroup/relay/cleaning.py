"""
Records on their way out: what every API can store, no longer than it takes, and without secrets. Pure.

`intake.py` calls `cleaned_log` and `cleaned_event` for each record that passed, before it is written anywhere, `proxy.py`
`cleaned_state` for bodies of calls. NUL, which Postgres refuses, and lone surrogates, which are no UTF-8, become U+FFFD;
colours and other escape sequences of terminals (ANSI) stay as they are, for they are text like any other.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flowgroup.model.texts import LOOKED_AT_CHARS, MASK, MOST_CHARS, cut, forms, masked, storable
from flowgroup.relay import patterns

MOST_EVENT_BYTES = 1024 * 1024
_MOST_SECRETS = 1000
_DEEPEST = 100
_MOST_LEVEL = 2**31 - 1  # what a database's integer takes
# Not masked within events: what is not this must stay what it is. A resource's id is no place for a secret.
_NAMES_OF_THINGS = frozenset(("id", "type", "event", "timestamp", "occurred", "follows", "created", "updated"))
_ENDINGS = ("_id", "_time", ".id", ".role")


@dataclass(slots=True)
class Sent:
    """What has left, of one attempt or of one record, and what was done to it."""

    records: int = 0
    bytes: int = 0
    masked: int = 0
    cut: int = 0

    def add(self, more: "Sent") -> None:
        self.records += more.records
        self.bytes += more.bytes
        self.masked += more.masked
        self.cut += more.cut


class Masks:
    """What is masked in one attempt's records: exact values, and the operator's patterns."""

    def __init__(self, patterns: tuple[re.Pattern[str], ...] = ()) -> None:
        self._patterns = patterns
        self._secrets: tuple[str, ...] = ()
        self._forms: tuple[str, ...] = ()

    def add(self, secrets: Iterable[str]) -> None:
        """From now on these are masked, in all their forms (`model/texts.py`)."""
        new = tuple(one for one in secrets if one not in self._secrets)
        if new:
            self._secrets = (*self._secrets, *new)[-_MOST_SECRETS:]
            self._forms = forms(self._secrets)

    def applied(self, text: str) -> tuple[str, int]:
        """The text with everything masked, and how often something was."""
        text, count = masked(text, self._forms)
        for pattern in self._patterns:
            text, more = patterns.masked(text, pattern, MASK)
            count += more
        return text, count


def cleaned_log(record: dict[str, Any], masks: Masks, sent: Sent) -> dict[str, Any]:
    """A record of `POST /logs/`. Its message is masked and cut at `MOST_CHARS`, with a mark."""
    made: dict[str, Any] = _Cleaner(sent).of(record)
    for name in ("message", "name"):
        if isinstance(text := made.get(name), str):
            made[name] = _line(text, masks, sent)
    level = made.get("level")
    if isinstance(level, int) and not 0 <= level <= _MOST_LEVEL:
        made["level"] = min(max(level, 0), _MOST_LEVEL)
    return made


def cleaned_event(event: dict[str, Any], masks: Masks, sent: Sent) -> dict[str, Any]:
    """An event of `POST /events`. One that is larger than `MOST_EVENT_BYTES` is cut in its texts, else in its payload."""
    made: dict[str, Any] = _Cleaner(sent, masks).of(event)
    if len(json.dumps(made)) <= MOST_EVENT_BYTES:
        return made
    made = _Cleaner(sent, most=MOST_CHARS).of(made)
    if len(json.dumps(made)) > MOST_EVENT_BYTES:
        sent.cut += 1
        made["payload"] = {"flowgroup": f"the payload was larger than {MOST_EVENT_BYTES} bytes, and was cut off"}
    return made


def cleaned_state(body: dict[str, Any], masks: Masks, sent: Sent) -> dict[str, Any]:
    """A body with a `state` in it: its message is masked and cut; results, which it may have, are not."""
    made: dict[str, Any] = _Cleaner(sent).of(body)
    state = made.get("state")
    if isinstance(state, dict) and isinstance(text := state.get("message"), str):
        state["message"] = _line(text, masks, sent)
    return made


@dataclass(slots=True)
class _Cleaner:
    """Every text in a value, its names too: storable, masked if there are masks, and no longer than `most` characters."""

    sent: Sent
    masks: Masks | None = None
    most: int | None = None

    def of(self, value: Any, name: str = "", depth: int = 0) -> Any:
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, float):
            return value if math.isfinite(value) else None  # Postgres knows no NaN in JSON
        if depth > _DEEPEST and isinstance(value, dict | list):
            self.sent.cut += 1
            return "cut off here: it is nested too deeply"
        if isinstance(value, dict):
            return {storable(key): self.of(inner, key, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.of(inner, name, depth + 1) for inner in value]
        return value

    def _text(self, text: str, name: str) -> str:
        text = storable(text)
        if self.most is not None and len(text) > self.most:
            text, self.sent.cut = cut(text, self.most), self.sent.cut + 1
        if self.masks is None or name in _NAMES_OF_THINGS or name.endswith(_ENDINGS):
            return text
        text, count = self.masks.applied(text)
        self.sent.masked += count
        return text


def _line(text: str, masks: Masks, sent: Sent) -> str:
    length = len(text)
    text, count = masks.applied(text[:LOOKED_AT_CHARS])
    sent.masked += count
    if length <= LOOKED_AT_CHARS and len(text) <= MOST_CHARS:
        return text
    sent.cut += 1
    return cut(text, MOST_CHARS, max(length, MOST_CHARS + 1))
