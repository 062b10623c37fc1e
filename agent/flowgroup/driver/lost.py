"""
In the child: what Dask's exceptions about lost workers mean, for the state that the engine makes of them.

Dask knows which worker was lost, and not why. The desk asks the daemon, whose answer comes into a file; it may take kubelet
some seconds until it has said how a container ended, so it is asked for again.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowgroup.driver.losses import SCHEDULER
from flowgroup.model.causes import said

_PATIENCE_S = 5.0
_ANSWER_S = 2.0
_LOOK_S = 0.05
_ASKED_ANEW_S = 30.0
_CANCELLED = ("FutureCancelledError", "FuturesCancelledError")
# Reasons for which Dask cancels futures without anybody's having asked for it.
_LOST = ("lost dependencies", "scheduler-connection-lost", "scheduler-restart")


@dataclass
class Lost:
    """`ask` sends the question, `file` is where answers come."""

    ask: Callable[[], object]
    file: Path
    patience_s: float = _PATIENCE_S
    _vain_until: float = 0.0

    def explained(self, exc: BaseException) -> str | None:
        """What an exception says of lost workers, with their cause; None if it is about something else. May take seconds."""
        for one in _chain(exc):
            if not type(one).__module__.startswith("distributed"):
                continue
            if type(one).__name__ == "KilledWorker":
                return self._killed(one)
            if type(one).__name__ in _CANCELLED and any(reason in str(one) for reason in _LOST):
                why = self._why(SCHEDULER)
                return said("worker-lost", what=str(one).partition("\n")[0].rstrip("."), why=why)
        return None

    def _killed(self, exc: BaseException) -> str:
        task, worker, allowed = exc.args
        name = str(getattr(worker, "name", worker))
        limit = getattr(worker, "memory_limit", None)
        where = f"{name} (memory limit {limit / 2**30:.2f} GiB)" if limit else name
        return said("killed-worker", task=task, times=allowed + 1, worker=where, why=self._why(name))

    def _why(self, name: str) -> str:
        """`: <cause>`, or "" if nobody says so in time; then it is not asked again for a while, for many may fail at once."""
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline and time.monotonic() >= self._vain_until:
            if why := self._answer().get(name):
                return f": {why}"
        self._vain_until = max(self._vain_until, time.monotonic() + _ASKED_ANEW_S)
        return ""

    def _answer(self) -> dict[str, str]:
        before, deadline = self._stamp(), time.monotonic() + min(_ANSWER_S, self.patience_s)
        self.ask()
        while self._stamp() == before:
            if time.monotonic() > deadline:
                return {}
            time.sleep(_LOOK_S)
        try:
            told = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        time.sleep(_LOOK_S)  # an answer that lacks the name is asked for again, and not as fast as can be
        return told if isinstance(told, dict) else {}

    def _stamp(self) -> int:
        try:
            return self.file.stat().st_mtime_ns
        except OSError:
            return 0


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception, and what it came from."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
