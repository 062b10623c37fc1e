"""What a process has used so far, as /proc tells it. Linux only."""

import os
from dataclasses import dataclass
from pathlib import Path

from flowgroup.driver.oskit import descendants, process_table

_UTIME, _STIME = 11, 12  # among the fields of /proc/PID/stat after the process's name


@dataclass(frozen=True, slots=True)
class Usage:
    rss_bytes: int
    cpu_s: float


def usage(pid: int) -> Usage:
    """Raises OSError when there is no such process."""
    place = Path(f"/proc/{pid}")
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return Usage(rss_of((place / "status").read_text()), cpu_ticks_of((place / "stat").read_text()) / ticks_per_s)


def rss_of(status: str) -> int:
    """Resident bytes, from /proc/PID/status. 0 for a process that has none, such as a zombie."""
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def cpu_ticks_of(stat: str) -> int:
    """Clock ticks in user and kernel, from /proc/PID/stat. A process's name may hold spaces and brackets."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[_UTIME]) + int(fields[_STIME])


def tree(pid: int) -> set[int]:
    """A process and all that it started."""
    return {pid} | descendants(pid, process_table())
