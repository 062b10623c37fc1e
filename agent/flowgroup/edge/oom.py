"""
What the kernel says of processes that it ended for lack of memory: the counters of a cgroup (v2, or v1) and of the machine.

Where there is no cgroup to be seen only the machine's counter is there, and what it counts may be another's end.
"""

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_NO_LIMIT = 1 << 60  # what v1 says of a cgroup without one is more


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
    """`folder` is the cgroup's, None where there is none with counters. `is_v1`: they are in v1's files."""

    folder: Path | None
    is_v1: bool = False
    root: Path = _ROOT
    proc: Path = _PROC

    @classmethod
    def of(cls, pid: int | str = "self", *, root: Path = _ROOT, proc: Path = _PROC) -> "Cgroup":
        """The cgroup that a process is in now."""
        try:
            lines = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
        except OSError:
            lines = []
        named = {controllers: path.lstrip("/") for _, controllers, path in lines}
        unified = root / named.get("", "")
        if "" in named and (unified / "memory.events").is_file():
            return cls(unified, False, root, proc)
        # In a container of v1 the path is the host's, and the container's own cgroup is mounted at the root.
        for folder in (root / "memory" / named.get("memory", ""), root / "memory"):
            if "memory" in named and (folder / "memory.oom_control").is_file():
                return cls(folder, True, root, proc)
        return cls(None, False, root, proc)

    def counters(self) -> Counters:
        machine = _counts(self.proc / "vmstat").get("oom_kill", 0)
        if self.folder is None:
            return Counters(machine=machine)
        if self.is_v1:  # new kernels do not count how often a limit was reached there
            killed = _counts(self.folder / "memory.oom_control").get("oom_kill", 0)
            return Counters(killed if self._has_reached() else 0, killed, 0, machine)
        above = [one for one in (self.folder, *self.folder.parents) if one.is_relative_to(self.root)]
        own = [_counts(one / "memory.events.local") for one in above]
        return Counters(
            reached=sum(counts.get("oom", 0) for counts in own),
            killed=_counts(self.folder / "memory.events").get("oom_kill", 0),
            groups=sum(counts.get("oom_group_kill", 0) for counts in own),
            machine=machine,
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
        return self._amount("memory.max", "memory.limit_in_bytes", " (limit {:.2f} GiB)")

    def peak(self) -> str:
        """` (at most 2.00 GiB were in use)`, or "" where the kernel does not say."""
        return self._amount("memory.peak", "memory.max_usage_in_bytes", " (at most {:.2f} GiB were in use)")

    def _has_reached(self) -> bool:
        assert self.folder
        most, limit = (_number(self.folder / f"memory.{name}") for name in ("max_usage_in_bytes", "limit_in_bytes"))
        return most is not None and limit is not None and most >= limit

    def _amount(self, name: str, name_v1: str, words: str) -> str:
        amount = _number(self.folder / (name_v1 if self.is_v1 else name)) if self.folder else None
        return words.format(amount / 2**30) if amount and amount < _NO_LIMIT else ""


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


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # `max`
        return None
