"""The kernel's account of processes that it ended for lack of memory, from files as a cgroup has them."""

from pathlib import Path

import pytest

from flowgroup.edge.oom import Cgroup, Counters, Kills

EVENTS = "low 0\nhigh 0\nmax 9\noom {oom}\noom_kill {kill}\noom_group_kill {group}\n"


class Kernel:
    """A cgroup `/slice/unit` below a root, and /proc, which say what a test has them say."""

    def __init__(self, folder: Path, *, has_cgroup: bool = True) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.unit = self.root / "slice" / "unit"
        (self.proc / "7").mkdir(parents=True)
        (self.proc / "7" / "cgroup").write_text("0::/slice/unit\n")
        self.unit.mkdir(parents=True)
        self.has_cgroup = has_cgroup
        self.say()

    def say(self, *, own: int = 0, above: int = 0, kill: int = 0, group: int = 0, machine: int = 0) -> None:
        """Limits of the unit (`own`) or of its slice (`above`) that were reached, and what was ended."""
        (self.proc / "vmstat").write_text(f"nr_free_pages 8\noom_kill {machine}\n")
        if self.has_cgroup:
            (self.unit / "memory.events").write_text(EVENTS.format(oom=own, kill=kill, group=group))
            (self.unit / "memory.events.local").write_text(EVENTS.format(oom=own, kill=kill, group=group))
            (self.unit.parent / "memory.events.local").write_text(EVENTS.format(oom=above, kill=0, group=0))

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup.of(7, root=self.root, proc=self.proc)


@pytest.mark.parametrize(
    ("now", "code"),
    [
        ({}, None),
        ({"own": 1, "kill": 1, "machine": 1}, "oom-child"),
        ({"above": 1, "kill": 1, "machine": 1}, "oom-child"),  # the limit of a slice around it
        ({"kill": 1, "machine": 1}, "oom-node"),
        ({"own": 1, "kill": 4, "group": 1, "machine": 4}, "oom-group"),
        ({"machine": 3}, None),  # of another cgroup
        ({"own": 5}, None),  # reached, and nothing had to be ended
    ],
)
def test_the_counters_say_whether_a_limit_or_the_machine_had_no_more(
    tmp_path: Path, now: dict[str, int], code: str | None
) -> None:
    kernel = Kernel(tmp_path)
    cgroup = kernel.cgroup
    before = cgroup.counters()
    kernel.say(**now)
    assert cgroup.code_since(before) == code


def test_without_a_cgroup_the_machines_counter_counts(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, has_cgroup=False)
    cgroup = kernel.cgroup
    assert cgroup.folder is None
    kernel.say(machine=1)
    assert cgroup.code_since(Counters()) == "oom-node"
    assert (cgroup.limit(), cgroup.peak()) == ("", "")


def test_one_kill_explains_one_end(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kills = Kills(kernel.cgroup)
    before = kernel.cgroup.counters()
    kernel.say(own=1, kill=1)
    assert kills.claim(before) == "oom-child"
    assert kills.claim(before) is None  # who was started before it too, and somebody else's `kill -9` ended it
    kernel.say(own=2, kill=3)
    assert [kills.claim(before) for _ in range(3)] == ["oom-child", "oom-child", None]


def test_limit_and_peak_are_said_where_there_are_any(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    (kernel.unit / "memory.max").write_text("max\n")
    assert (kernel.cgroup.limit(), kernel.cgroup.peak()) == ("", "")
    (kernel.unit / "memory.max").write_text(f"{3 << 30}\n")
    (kernel.unit / "memory.peak").write_text(f"{1 << 30}\n")
    assert kernel.cgroup.limit() == " (limit 3.00 GiB)"
    assert kernel.cgroup.peak() == " (at most 1.00 GiB were in use)"


@pytest.mark.parametrize("is_in_container", [False, True])
def test_under_cgroup_v1_its_own_files_say_it(tmp_path: Path, is_in_container: bool) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("5:memory:/kubepods/a1\n1:name=systemd:/\n0::/\n")
    folder = tmp_path / "memory" if is_in_container else tmp_path / "memory" / "kubepods" / "a1"
    folder.mkdir(parents=True)

    def say(most: int, killed: int) -> None:
        (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {killed}\n")
        (folder / "memory.max_usage_in_bytes").write_text(f"{most}\n")

    (folder / "memory.limit_in_bytes").write_text(f"{1 << 30}\n")
    say(1 << 20, 0)
    cgroup = Cgroup.of(7, root=tmp_path, proc=tmp_path)
    assert cgroup.limit() == " (limit 1.00 GiB)"
    before = cgroup.counters()
    assert cgroup.code_since(before) is None
    say(1 << 20, 1)
    assert cgroup.code_since(before) == "oom-node"
    say(1 << 30, 1)
    assert cgroup.code_since(before) == "oom-child"
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroup.limit() == ""


def test_what_the_kernel_does_not_show_is_nothing(tmp_path: Path) -> None:
    cgroup = Cgroup.of(8, root=tmp_path, proc=tmp_path)
    assert cgroup.counters() == Counters()
    assert cgroup.code_since(Counters()) is None
    Cgroup.of().counters()  # of this very process, whatever this machine has
