"""Texts on their way to the API: what every server can store, how long they may be, and how secrets are written in them."""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "********"
MOST_CHARS = 25_000  # of a log line; Prefect Cloud takes no more
LOOKED_AT_CHARS = 32_000  # of a line that is cut: a secret may lie across the cut
_LEAST_SECRET_CHARS = 4
_LEAST_LINE_CHARS = 8
_BAD = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Without NUL, which Postgres refuses, and lone surrogates, which are no UTF-8: both become U+FFFD."""
    return _BAD.sub("\N{REPLACEMENT CHARACTER}", text) if _BAD.search(text) else text


def cut(text: str, most: int = MOST_CHARS, length: int = 0) -> str:
    """At most `most` characters, with a mark that says how many (`length`, if some are gone already) there were."""
    length = max(length, len(text))
    mark = f"… [cut here: {length} characters]"
    return text if length <= most else text[: most - len(mark)] + mark


def forms(secrets: Iterable[str], most: int = 1000) -> tuple[str, ...]:
    """
    What to look for: the secrets, each of their lines, and both as JSON, Python or an address would write them; the longest
    first, for one may have another in it.

    Not those of fewer than four characters: they would be found everywhere.
    """
    made: set[str] = set()
    for secret in secrets:
        lines = [line for line in secret.splitlines() if len(line) >= _LEAST_LINE_CHARS]
        written = {form for text in (secret, *lines) for form in (text, json.dumps(text)[1:-1], repr(text)[1:-1])}
        made |= {storable(form) for form in written} | {quote(storable(secret), safe="")}
        if len(made) > most:
            break
    return tuple(sorted((form for form in made if len(form) >= _LEAST_SECRET_CHARS), key=len, reverse=True))


def masked(text: str, forms: Iterable[str]) -> tuple[str, int]:
    """The text without these, and how often one was found."""
    count = 0
    for form in forms:
        if form in text:
            count += text.count(form)
            text = text.replace(form, MASK)
    return text, count
