"""
Is it the call, or is it the API? What of the API's errors a child is told, and for what it merely waits.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto

_WAIT = frozenset((401, 408, 425, 429, 502, 503, 504, *range(520, 530)))
_FORBIDDEN = 403
_DOUBTFUL = frozenset((_FORBIDDEN, 500))


class Verdict(Enum):
    """What an answer of the API means."""

    PASS = auto()
    WAIT = auto()
    DOUBTFUL = auto()


def judge(status: int, body: bytes | None) -> Verdict:
    """
    WAIT: the API, something before it, or our token is at fault, so the child waits without limit. A wrong
    token (401) is the relay's trouble and never a run's. DOUBTFUL: it may be the call itself.
    """
    if status in _WAIT:
        return Verdict.WAIT
    if status == _FORBIDDEN and body and b"CSRF" in body:  # the client fetches a new CSRF token on seeing it
        return Verdict.PASS
    return Verdict.DOUBTFUL if status in _DOUBTFUL else Verdict.PASS


class Patience:
    """
    How often a doubtful answer came to the same call of the same attempt, while the API answered other things: in an
    outage nothing is learned of the call.

    The child waits for the first few. Then it is this call which the API will never take, and the child is told:
    else a call that always gives 500 would hang its run for ever.
    """

    def __init__(self, *, tries: int = 5, most: int = 10_000) -> None:
        self._tries = tries
        self._most = most
        self._failed: OrderedDict[tuple[str, ...], int] = OrderedDict()

    def is_over(self, *call: str) -> bool:
        """Count one more failure of this call; whether there were enough of them."""
        count = self._failed.pop(call, 0) + 1
        self._failed[call] = count
        if len(self._failed) > self._most:
            self._failed.popitem(last=False)
        return count >= self._tries

    def worked(self, *call: str) -> None:
        """The call got an answer that means something."""
        self._failed.pop(call, None)


class Backoff:
    """
    When a child is to come back while the API is away: the longer it has been away, the later, and with full jitter, so
    that afterwards not all come at once. Never so late that a short outage becomes a long one.
    """

    _SHARE, _SHORTEST_S, _LONGEST_S = 0.1, 1.0, 15.0

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: float | None = None

    def again_s(self, asked_s: float | None) -> float:
        """In how many seconds: at least what the API asked for."""
        if self._since is None:
            self._since = self._now()
        span_s = max(3 * self._SHORTEST_S, min(self._LONGEST_S, self._SHARE * (self._now() - self._since)))
        return max(asked_s or 0.0, random.uniform(self._SHORTEST_S, span_s))  # noqa: S311

    def is_over(self) -> None:
        """The API has answered."""
        self._since = None
