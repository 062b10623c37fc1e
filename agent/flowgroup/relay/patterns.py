"""
Patterns that the operator sets: what they match is masked. Read once, at the start, and refused there if they are bad.

Text comes from user code, so that a pattern must not be made slow by it. One that repeats what repeats is refused by its form,
and one that takes long for a made-up bad line by trial; and a pattern sees no more than some two thousand characters at once.
"""

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from re import _constants as kind  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from flowgroup.edge.files import needed_text
from flowgroup.errors import Refused

WINDOW_CHARS = 2000
OVERLAP_CHARS = 400  # a match that is longer may be missed where two windows meet
_PATIENCE_S = 0.01
_FEW = 10  # a repetition of no more may have others in it, such as the three parts of an address
_FILLING = ("a", "0", " ", "-", "=", "/", ".", "A", '"')


def told(patterns: Iterable[str], file: Path | None) -> tuple[re.Pattern[str], ...]:
    """Those of the settings and of the file that they name, one a line. Raises Refused, naming what is wrong."""
    lines = needed_text(file, "FLOWGROUP_RELAY_REDACT_FILE").splitlines() if file else []
    return compiled([*patterns, *(line for line in lines if line.strip() and not line.startswith("#"))])


def compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """Raises Refused, naming the pattern and what is wrong with it."""
    return tuple(_compiled(pattern) for pattern in patterns)


def masked(text: str, pattern: re.Pattern[str], mask: str) -> tuple[str, int]:
    """The text without what the pattern matches, and how often it did."""
    if len(text) <= WINDOW_CHARS:
        return pattern.subn(mask, text)
    spans = _merged(_spans(text, pattern))
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], mask]
        at = end
    return ("".join((*parts, text[at:])), len(spans)) if spans else (text, 0)


def _spans(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    for first in range(0, len(text), WINDOW_CHARS - OVERLAP_CHARS):
        for match in pattern.finditer(text[first : first + WINDOW_CHARS]):
            yield first + match.start(), first + match.end()


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if made and start < made[-1][1]:
            made[-1] = (made[-1][0], max(end, made[-1][1]))
        else:
            made.append((start, end))
    return made


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        form = parser.parse(pattern)
        made = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        raise _bad(pattern, f"it is no regular expression of Python's: {exc}") from exc
    if made.match("") or form.getwidth()[0] == 0:
        raise _bad(pattern, "it matches nothing at all, which is everywhere")
    if _is_nested(form, inside=False):
        raise _bad(pattern, "it repeats what has repetitions or choices in it, or refers back, which can take for ever")
    if slow := next((line for line in _bad_lines(form) if _takes_long(made, line)), None):
        raise _bad(
            pattern,
            f"it takes too long for a line such as {slow[:30]!r}…; say how many characters, as in [a-z]{{1,80}}",
        )
    return made


def _bad(pattern: str, why: str) -> Refused:
    return Refused(f"the pattern {pattern!r} (FLOWGROUP_RELAY_REDACT) cannot be used: {why}")


def _takes_long(pattern: re.Pattern[str], line: str) -> bool:
    """
    At its best of three: a busy machine is not the pattern's fault. Tried on the line's end as it grows, so that the trial
    itself does not take for ever.
    """
    size = 16
    while not all(_took_s(pattern, line[-size:]) > _PATIENCE_S for _ in range(3)):
        if size >= len(line):
            return False
        size = min(len(line), size * 5 // 4)
    return True


def _took_s(pattern: re.Pattern[str], line: str) -> float:
    began = time.perf_counter()
    pattern.sub("", line)
    return time.perf_counter() - began


def _bad_lines(form: Any) -> Iterator[str]:
    """As long as text gets, of one character, and up to each repetition of the pattern: then something that does not fit."""
    sample = ""
    for part in form:
        sample += _sample(part)
        yield (sample + sample[-1:] * WINDOW_CHARS)[:WINDOW_CHARS] + "\x01"
        yield (sample * WINDOW_CHARS)[:WINDOW_CHARS] + "\x01"  # so that it may begin anywhere, and go on anywhere
    for char in (*_FILLING, *sorted(set(sample))[:20]):
        yield char * WINDOW_CHARS + "\x01"


def _sample(part: tuple[Any, Any]) -> str:
    """Some text that a part of a pattern fits."""
    what, told = part
    if what is kind.LITERAL:
        return chr(told)
    if what is kind.IN:
        return _member(told)
    if what in (kind.MAX_REPEAT, kind.MIN_REPEAT):
        times: int = max(1, min(told[0], 50))
        return "".join(_sample(inner) for inner in told[2]) * times
    if what is kind.SUBPATTERN:
        return "".join(_sample(inner) for inner in told[3])
    if what is kind.BRANCH:
        return "".join(_sample(inner) for inner in told[1][0])
    return "a" if what in (kind.ANY, kind.NOT_LITERAL) else ""


def _member(members: list[tuple[Any, Any]]) -> str:
    what, told = members[0]
    if what is kind.LITERAL:
        return chr(told)
    if what is kind.RANGE:
        return chr(told[0])
    return "0" if told is kind.CATEGORY_DIGIT else " " if told is kind.CATEGORY_SPACE else "a"


def _is_nested(form: Any, *, inside: bool) -> bool:
    """Whether something that is repeated without end has a repetition or a choice in it; or something refers back."""
    return any(_part_is_nested(what, told, inside=inside) for what, told in form)


def _part_is_nested(what: Any, told: Any, *, inside: bool) -> bool:
    if what in (kind.MAX_REPEAT, kind.MIN_REPEAT):
        varies = told[1] is kind.MAXREPEAT or told[0] != told[1]
        many = told[1] is kind.MAXREPEAT or told[1] > _FEW
        return (inside and varies) or _is_nested(told[2], inside=inside or many)
    if what is kind.SUBPATTERN:
        return _is_nested(told[3], inside=inside)
    if what is kind.BRANCH:
        return inside or any(_is_nested(choice, inside=inside) for choice in told[1])
    if what in (kind.ASSERT, kind.ASSERT_NOT):
        return _is_nested(told[1], inside=inside)
    return what in (kind.GROUPREF, kind.GROUPREF_EXISTS)
