"""
What the kernel says of processes that it ended for lack of memory: the counters of a cgroup (v2) and of the machine.

Where there is no cgroup v2 to be seen only the machine's counter is there, and what it counts may be another's end.
"""

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Counters:
    """
    How often, since it was made: a memory limit of the cgroup, or of one above it, was `reached`; a process in it was
    `killed`, for whatever limit; a whole group was (`groups`); any process of this `machine` was.
    """

    reached: int = 0
    killed: int = 0
    groups: int = 0
    machine: int = 0


@dataclass(frozen=True, slots=True)
class Cgroup:
    """`folder` is the cgroup's, None where there is none with counters."""

    folder: Path | None
    root: Path = _ROOT
    proc: Path = _PROC

    @classmethod
    def of(cls, pid: int | str = "self", *, root: Path = _ROOT, proc: Path = _PROC) -> "Cgroup":
        """The cgroup that a process is in now."""
        try:
            lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            lines = []
        named = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
        folder = root / named if named is not None else None
        return cls(folder if folder and (folder / "memory.events").is_file() else None, root, proc)

    def counters(self) -> Counters:
        events = _counts(self.folder / "memory.events") if self.folder else {}
        above = [self.folder, *self.folder.parents] if self.folder else []
        own = [_counts(one / "memory.events.local") for one in above if one.is_relative_to(self.root)]
        return Counters(
            reached=sum(counts.get("oom", 0) for counts in own),
            killed=events.get("oom_kill", 0),
            groups=events.get("oom_group_kill", 0),
            machine=_counts(self.proc / "vmstat").get("oom_kill", 0),
        )

    def code_since(self, before: Counters) -> str | None:
        """The cause (`model/causes/`) of an end by SIGKILL since then; None if the kernel ended nothing."""
        now = self.counters()
        if now.groups > before.groups:
            return "oom-group"
        if now.killed > before.killed:
            return "oom-child" if now.reached > before.reached else "oom-node"
        return "oom-node" if self.folder is None and now.machine > before.machine else None

    def limit(self) -> str:
        """` (limit 2.00 GiB)`, or "" where there is none."""
        return _amount(self.folder, "memory.max", " (limit {:.2f} GiB)")

    def peak(self) -> str:
        """` (at most 2.00 GiB were in use)`, or "" where the kernel does not say."""
        return _amount(self.folder, "memory.peak", " (at most {:.2f} GiB were in use)")


class Kills:
    """Each process that the kernel ended explains one end: what is left over explains no later one of a like kind."""

    def __init__(self, cgroup: Cgroup) -> None:
        self.cgroup = cgroup
        self._explained = self._all()

    def claim(self, before: Counters) -> str | None:
        """The cause of an end by SIGKILL since `before`, if the kernel's account has one that explains no other end."""
        code = self.cgroup.code_since(before)
        if code is None or self._all() <= self._explained:
            return None
        self._explained += 1
        return code

    def _all(self) -> int:
        counters = self.cgroup.counters()
        return counters.killed if self.cgroup.folder else counters.machine


def _counts(file: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        return {line[0]: int(line[1]) for line in lines if len(line) == 2}  # noqa: PLR2004
    except (OSError, ValueError):
        return {}


def _amount(folder: Path | None, name: str, words: str) -> str:
    try:
        return words.format(int((folder / name).read_text()) / 2**30) if folder else ""
    except (OSError, ValueError):  # `max`
        return ""
