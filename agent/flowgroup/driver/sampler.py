"""
Where a run's time goes: every millisecond, what the main thread is doing, and the others while they work, as lines of
collapsed stacks.

A child lives too short for a profiler that attaches to it, so it carries its own. It is off unless a folder is named.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_NAME = "sampler"
_EVERY_S = 0.001
_SWITCH_S = 0.0005  # else a busy thread keeps the interpreter for five milliseconds


Run = Callable[[bytes, int, int], int]


def sampled(run: Run, folder: Path | None) -> Run:
    """What a child does, sampled from its fork to its end. Without a folder it is left as it is."""
    if folder is None:
        return run

    def sampled_run(brief: bytes, leash: int, shipper: int) -> int:
        with sampling(folder):
            return run(brief, leash, shipper)

    return sampled_run


@contextmanager
def sampling(folder: Path) -> Iterator[None]:
    """Sample for the length of the block; then write `<folder>/<pid>.stacks`: `thread;outer;…;inner <microseconds>`."""
    found: Counter[str] = Counter()
    over = threading.Event()
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    sampler = threading.Thread(target=_sample, args=(found, over), name=_NAME, daemon=True)
    sampler.start()
    try:
        yield
    finally:
        over.set()
        sampler.join()
        sys.setswitchinterval(usual_s)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (f"{stack} {microseconds}\n" for stack, microseconds in found.items())
        half = folder / f"{os.getpid()}.half"
        half.write_text("".join(lines))
        half.replace(half.with_suffix(".stacks"))


def _sample(found: "Counter[str]", over: threading.Event) -> None:
    """A sample weighs as much as the time since the one before: a late one stands for what was not seen."""
    main, last, works = threading.main_thread(), time.perf_counter(), _Works()
    while not over.wait(_EVERY_S):
        now = time.perf_counter()
        frames = sys._current_frames()
        for thread in threading.enumerate():
            if thread.ident in frames and thread.name != _NAME and (thread is main or works.meanwhile(thread)):
                found[collapsed(thread.name, frames[thread.ident])] += round((now - last) * 1e6)
        last = now


class _Works:
    """Whether a thread worked since we last asked, by the time that Linux gave it. Elsewhere every thread counts."""

    def __init__(self) -> None:
        self._ran_ns: dict[int, str] = {}

    def meanwhile(self, thread: threading.Thread) -> bool:
        tid = thread.native_id or 0
        try:
            ran_ns = Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[0]
        except (OSError, IndexError):
            return True
        before, self._ran_ns[tid] = self._ran_ns.get(tid), ran_ns
        return before is not None and before != ran_ns


def collapsed(thread: str, frame: FrameType | None) -> str:
    """A stack from the outside in; a frame is `module:function`."""
    parts = []
    while frame is not None:
        parts.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_name}")
        frame = frame.f_back
    return ";".join([thread.replace(";", ","), *reversed(parts)])
