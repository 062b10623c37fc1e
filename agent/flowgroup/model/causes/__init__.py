"""
Every cause that is known by name: what tells it, what is said of it, and what helps.

The rows are data. Who recognises a cause names its code and gives the facts in the row's braces; the code stands in brackets in
what is said, so that it is the same in a run's state, in an error, on the line from a driver and in the metrics.
`docs/troubleshooting.md` is made of the rows.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from flowgroup.model.causes import pods, runs
from flowgroup.model.causes.row import Cause

ROWS: tuple[Cause, ...] = (*pods.ROWS, *runs.ROWS)
_BY_CODE: Mapping[str, Cause] = MappingProxyType({row.code: row for row in ROWS})
_CODE = re.compile(r"\[([a-z]+(?:-[a-z]+)*)\]")


def said(code: str, **facts: object) -> str:
    """
    The row in words: cause, remedy and `[code]`. The fact `said`, somebody else's words, is made a sentence.

    Raises KeyError for a code or a fact that is missing.
    """
    row = _BY_CODE[code]
    facts |= {"said": _sentence(str(facts["said"]))} if "said" in facts else {}
    words, remedy = row.words.format(**facts), row.remedy.format(**facts)
    return f"{words}{'' if words.endswith(chr(10)) else ' '}{remedy} [{code}]"


def marked(code: str, text: str) -> str:
    """A text that says cause and remedy already, with the code."""
    return f"{text} [{_BY_CODE[code].code}]"


def code_of(text: str) -> str | None:
    """The first cause that a text names; None if it names none."""
    return next((found for found in _CODE.findall(text) if found in _BY_CODE), None)


def _sentence(words: str) -> str:
    words = words.strip() or "nobody says why"
    return words if words.endswith((".", "?", "!", "]")) else f"{words}."


def tail(output: str, *, lines: int, chars: int) -> str:
    """The last lines of what something said, as the end of a message; "" if there are none."""
    last = output.rstrip().splitlines()[-lines:]
    if not any(line.strip() for line in last):
        return ""
    return "\nThe last lines of its output:\n" + "\n".join(last)[-chars:]
