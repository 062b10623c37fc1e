"""The few calls to the operating system that Python has no name for. Linux; elsewhere each does nothing."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send us `number` when our parent dies."""
    _prctl(_PR_SET_PDEATHSIG, int(number))


def adopt_orphans(wanted: bool = True) -> None:
    """Become the parent of every descendant whose own parent dies, so that nothing a run started escapes us."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(wanted))


def shows_threads() -> bool:
    """Whether a process can see its own threads and descriptors here, and so whether it may fork."""
    return Path("/proc/self/task").is_dir()


def process_table() -> dict[int, tuple[int, int]]:
    """Every process: its pid, to its parent's pid and its session's id."""
    table: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc").exists() else ():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()
            except (OSError, IndexError):
                continue  # it ended while we looked
            table[int(entry.name)] = (int(fields[1]), int(fields[3]))
    return table


def descendants(root: int, table: dict[int, tuple[int, int]]) -> set[int]:
    """All processes below `root`, and all in its session, without `root` itself."""
    below = {pid for pid, (_, session) in table.items() if session == root and pid != root}
    found = True
    while found:
        more = {pid for pid, (parent, _) in table.items() if parent in below or parent == root} - below - {root}
        found = bool(more)
        below |= more
    return below


def kill(pids: set[int], number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):  # it has ended; it became another user (sudo, a setuid program)
            continue


def memory_bytes(pids: set[int]) -> int:
    """What these processes use together, each shared page counted in parts (PSS). 0 where that cannot be told."""
    used = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        used += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return used


def cpu_s(pids: set[int]) -> float:
    """Processor time of these processes, in seconds, and of those that they have started and that have ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
        except (OSError, IndexError):
            continue
        ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")
