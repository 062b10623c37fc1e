"""The budget a minute of what the relay sends to the API: calls, whoever asked for them, and records."""

import asyncio
from dataclasses import dataclass, field

_MINUTE_S = 60.0
_SAVED_S = 5.0  # of the budget, at most: after a pause there is no burst


@dataclass
class _Bucket:
    """`per_minute` None: without limit."""

    per_minute: float | None
    left: float = 0.0
    at: float = 0.0

    def wait_s(self, now: float) -> float:
        """How long until there is any. What is taken may be more than there is: then the next one waits for longer."""
        if self.per_minute is None:
            return 0.0
        rate = self.per_minute / _MINUTE_S
        most = max(1.0, rate * _SAVED_S)
        self.left = min(most, self.left + (now - self.at) * rate) if self.at else most
        self.at = now
        return 0.0 if self.left > 0 else -self.left / rate + 0.001

    def take(self, count: int) -> None:
        self.left -= count


@dataclass
class Pace:
    """One for all kinds: Prefect Cloud counts calls, and log lines and events together."""

    requests_per_minute: float | None = None
    records_per_minute: float | None = None
    _requests: _Bucket = field(init=False)
    _records: _Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._requests, self._records = _Bucket(self.requests_per_minute), _Bucket(self.records_per_minute)

    async def turn(self, records: int = 0) -> None:
        """Wait until one more call, with so many records, is within the budget."""
        clock = asyncio.get_running_loop().time
        while True:
            wait_s = max(self._requests.wait_s(clock()), self._records.wait_s(clock()) if records else 0.0)
            if wait_s <= 0:
                break
            await asyncio.sleep(wait_s)
        self._requests.take(1)
        self._records.take(records)
