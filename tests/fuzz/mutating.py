"""
What others might say instead of what they said: recorded values, spoilt in one place or a few.

`FLOWGROUP_FUZZ_CASES` says how many cases there are in all (every test of `tests/fuzz` gets its share).
"""

import asyncio
import copy
import json
import os
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

PARSERS = 40  # about so many tests share the cases
CASES = max(1, int(os.environ.get("FLOWGROUP_FUZZ_CASES", "600")) // PARSERS)
_DEEP = 2000
_HTML = b"<html><body>502 Bad Gateway: a proxy was here</body></html>"


def _deep(depth: int) -> Any:
    made: Any = []
    for _ in range(depth):
        made = [made]
    return made


_JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "x" * 5000,
        "0",
        "-1",
        "9" * 400,
        "9" * 5000,
        "NaN",
        "null",
        "\x00",
        "\ud800",
        "😀",
        "../..",
        "{{ x }}",
        "UNKNOWN",
    ),
    *("0001-01-01T00:00:00", "9999-12-31T23:59:59.999999-23:59", "2026-02-30T00:00:00Z", "<html>"),
    *([], {}, [None], [[]], [{}], {"": None}, {"id": []}, [1, "a", None], _deep(50)),
)


def spoilt(value: Any, random: Random) -> Any:
    """A copy of a JSON value with one to three places wrong: other types, fields that are missing, or too many."""
    whole = [copy.deepcopy(value)]
    for _ in range(random.randint(1, 3)):
        _spoil(whole, random)
    return whole[0]


def _spoil(whole: list[Any], random: Random) -> None:
    places = _places(whole)
    holder, key = places[random.randrange(len(places))]
    how = random.randrange(6)
    if how == 0 and holder is not whole:
        del holder[key]
    elif how == 1 and isinstance(holder[key], dict):
        holder[key][random.choice(("extra", "", "\ud800", "__class__", "type", "id"))] = _junk(random)
    elif how == 2 and isinstance(holder[key], list):
        holder[key].insert(0, _junk(random))
    else:
        holder[key] = _junk(random)


def _junk(random: Random) -> Any:
    """A copy: what is spoilt further must not come again in another case."""
    return copy.deepcopy(random.choice(_JUNK))


def _places(whole: list[Any]) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [whole]
    while waiting:
        holder = waiting.pop()
        keys = range(len(holder)) if isinstance(holder, list) else list(holder)
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (list, dict)) and len(found) < 500:
                waiting.append(holder[key])
    return found


def spoilt_bytes(value: Any, random: Random) -> bytes:
    """The same as text, or no JSON at all: cut off, a page, a nesting that no reader takes, other bytes."""
    text = json.dumps(spoilt(value, random)).encode()
    how = random.randrange(12)
    if how == 0:
        return text[: random.randrange(len(text) + 1)]
    if how == 1:
        return random.choice(
            (_HTML, b"", b"\xff\xfe", b"\x00" * 20, b"[" * _DEEP * 50, b'{"a":' * _DEEP, b"\xef\xbb\xbf{}")
        )
    if how == 2:
        at = random.randrange(len(text) + 1)
        return text[:at] + bytes([random.randrange(256)]) + text[at + 1 :]
    return text


def fuzz(check: Callable[[Random], None], *, share: float = 1.0) -> None:
    """Call `check` with so many random generators as there are cases for one test; a failure is made small, and shown."""
    _fuzz(check, share)


async def fuzz_async(check: Callable[[Random], Awaitable[None]], *, share: float = 1.0) -> None:
    """The same for a coroutine, in the loop that runs now."""
    loop = asyncio.get_running_loop()

    async def checked(random: Random) -> None:
        await check(random)

    def once(random: Random) -> None:
        asyncio.run_coroutine_threadsafe(checked(random), loop).result(60)

    await asyncio.to_thread(_fuzz, once, share)


def _fuzz(check: Callable[[Random], None], share: float) -> None:
    @settings(
        max_examples=max(1, round(CASES * share)),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=False))
    def cases(random: Random) -> None:
        check(random)

    cases()
