"""
A thread that asks the event loop every second whether it still turns. When it does not, the log has the stack that blocks it.

A blocked loop answers no probe and no metrics, so that nobody else could say why.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flowgroup import log

_EVERY_S = 1.0
_BLOCKED_S = 5.0
_FRAMES = 25  # the innermost; the outer ones are the loop's own


@dataclass(slots=True)
class Seen:
    """Who is told: `lag` how long the loop took to answer, each time; `blocked` that it has not answered for long."""

    lag: Callable[[float], None] = lambda _: None
    blocked: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Watch:
    loop: asyncio.AbstractEventLoop
    thread_id: int
    seen: Seen
    blocked_s: float
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.wait(_EVERY_S):
            answered = threading.Event()
            asked_at = time.monotonic()
            try:
                self.loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # it has been closed
                return
            if not answered.wait(self.blocked_s):
                self._say_blocked()
                self._until(answered)
                lag_s = round(time.monotonic() - asked_at, 1)
                log.get().warning("event_loop_turns_again", after_s=lag_s)
            self.seen.lag(time.monotonic() - asked_at)

    def _say_blocked(self) -> None:
        frame = sys._current_frames().get(self.thread_id)
        stack = "".join(traceback.format_stack(frame)[-_FRAMES:]) if frame else "its thread has ended"
        log.get().error("event_loop_blocked", for_s=self.blocked_s, stack=stack)
        self.seen.blocked()

    def _until(self, answered: threading.Event) -> None:
        while not (answered.wait(_EVERY_S) or self.over.is_set()):
            continue


@contextmanager
def watched(
    loop: asyncio.AbstractEventLoop, seen: Seen | None = None, *, blocked_s: float = _BLOCKED_S
) -> Iterator[None]:
    """Watch `loop`, which this thread runs, for the length of the block."""
    watch = _Watch(loop, threading.get_ident(), seen or Seen(), blocked_s)
    thread = threading.Thread(target=watch.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.over.set()
