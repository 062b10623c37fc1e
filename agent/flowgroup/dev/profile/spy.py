"""What a process that lives long is doing, by py-spy (`flowgroup[profile]`): collapsed stacks of its busy threads."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowgroup.dev import proc

_RATE = 250
_LONGEST_S = 600
_FRAME = re.compile(r"(.*) \(([^()0-9][^()]*?)(?:\.py)?(?::\d+)?\)")
_STOP_TIMEOUT_S = 60.0


@dataclass
class Spied:
    """`lines` are there after the block; `trouble` says why there are none."""

    lines: list[str] = field(default_factory=list)
    trouble: str = ""


@contextmanager
def spied(pid: int, into: Path) -> Iterator[Spied]:
    """Watch a process for the length of the block. Without py-spy, or where it may not look, there is only a trouble."""
    found = Spied()
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        found.trouble = "py-spy is not installed here (uv pip install --python .venv/bin/python py-spy)"
        yield found
        return
    how = ("--format", "raw", "--rate", str(_RATE), "--duration", str(_LONGEST_S), "--nonblocking", "--threads")
    process = subprocess.Popen(  # noqa: S603
        [program, "record", "--pid", str(pid), *how, "--output", into],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
        found.lines = collapsed(into.read_text().splitlines()) if into.exists() else []
        found.trouble = "" if found.lines else f"py-spy saw nothing: {said.strip()[-300:]}"


def collapsed(raw: Iterable[str]) -> list[str]:
    """py-spy's lines in our words: frames as `module:function` whatever the line of code, weights in microseconds."""
    told = []
    for line in raw:
        stack, _, samples = line.rpartition(" ")
        if samples.isdigit():
            frames = ";".join(_frame(frame) for frame in stack.split(";"))
            told.append(f"{frames} {int(samples) * 1_000_000 // _RATE}")
    return told


def _frame(frame: str) -> str:
    found = _FRAME.fullmatch(frame)
    return f"{found[2].replace('/', '.')}:{found[1]}" if found else frame


def largest(pid: int) -> int:
    """Of a process and all that it started the one that works: a Dask worker's own process only minds the one below it."""
    return max(proc.tree(pid), key=_rss_bytes)


def _rss_bytes(pid: int) -> int:
    try:
        return proc.usage(pid).rss_bytes
    except OSError:
        return 0
