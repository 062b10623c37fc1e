"""
A loop whose time is virtual: it jumps to the next moment at which something is to happen, as soon as nothing happens now.

Unlike looptime's it jumps at once where sockets are open too: all that is connected is in this process, so what was
written can be read already.
"""

import asyncio
import contextlib
import random
import selectors
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self
from unittest import mock

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_READ_THE_CLOCK = ("edge.prefect", "daemon.poll", "daemon.journey")


class _Selector(selectors.DefaultSelector):
    """Never waits: what it would have waited for is added to `slept_s`."""

    slept_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing would ever happen again"
            self.slept_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.slept_s


class _Moment(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return now()  # type: ignore[return-value]


def now() -> datetime:
    """The date, by the virtual clock."""
    return BEGAN + timedelta(seconds=asyncio.get_running_loop().time())


@contextlib.contextmanager
def virtual(seed: int) -> Iterator[asyncio.Runner]:
    """Run coroutines in virtual time, by which the daemon reads the date too. The seed decides what is left to chance."""
    chance = random.Random(seed)
    random.seed(seed)
    with contextlib.ExitStack() as patched:
        for room in _READ_THE_CLOCK:
            patched.enter_context(mock.patch(f"flowgroup.{room}.datetime", _Moment))
        made = lambda: uuid.UUID(int=chance.getrandbits(128), version=4)  # noqa: E731
        patched.enter_context(mock.patch("uuid.uuid4", made))
        yield patched.enter_context(asyncio.Runner(loop_factory=VirtualLoop))
