"""What a run's process has started ends with it: with real processes, below a child that adopts its orphans as a run does."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowgroup.driver import oskit
from flowgroup.driver.family import Family

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process has started can be seen on Linux alone")

# A child of the desk's: it starts a daemon by a double fork, with an empty environment and a session of its own, whose child
# has a session of its own, too. It writes all pids, and then waits or ends.
_CHILD = """
import os, subprocess, sys, time
from flowgroup.driver import oskit
os.setsid()
oskit.adopt_orphans()
code = ("import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}'); time.sleep(600)")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", code, sys.argv[1]], {})
    os._exit(0)
os.wait()
while not (os.path.exists(sys.argv[1]) and len(open(sys.argv[1]).read().split()) == 2):
    time.sleep(0.02)
time.sleep(float(sys.argv[2]))
"""


@dataclass
class Desk:
    """As a desk is: it adopts orphans, and knows which of its children live."""

    folder: Path
    living: set[int] = field(default_factory=set)
    starting: bool = False
    family: Family = field(init=False)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.family = Family(lambda: self.living, lambda: self.starting)

    def child(self, name: str, *, lives_s: float) -> tuple["subprocess.Popen[bytes]", list[int]]:
        """A child, and the pids of the two that it started."""
        file = self.folder / name
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(file), str(lives_s)])
        self.started.append(child)
        self.living.add(child.pid)
        until(lambda: file.exists() and len(file.read_text().split()) == 2, "it has started two")
        return child, [int(pid) for pid in file.read_text().split()]

    def end(self, child: "subprocess.Popen[bytes]") -> None:
        child.wait(60)
        self.living.discard(child.pid)


def until(is_so: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    oskit.adopt_orphans()
    made = Desk(tmp_path)
    yield made
    for child in made.started:
        made.family.kill(child.pid)
        child.wait()
    asyncio.run(made.family.sweep())
    oskit.adopt_orphans(False)


async def test_what_a_child_left_ends_and_the_others_children_live(desk: Desk) -> None:
    one, left = desk.child("one", lives_s=0)
    _, others = desk.child("two", lives_s=600)
    desk.end(one)
    assert await desk.family.sweep() == set()
    assert not any(map(lives, left))
    assert all(map(lives, others))


async def test_a_child_that_lives_is_killed_with_all_that_it_started(desk: Desk) -> None:
    one, its = desk.child("one", lives_s=600)
    desk.family.kill(one.pid)
    desk.end(one)
    assert await desk.family.sweep() == set()
    assert not any(map(lives, its))


async def test_what_was_there_before_the_first_child_is_not_ours_to_end(desk: Desk, tmp_path: Path) -> None:
    service = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        until(lambda: os.getsid(service.pid) == service.pid, "it has a session")
        later = Desk(tmp_path)
        one, left = later.child("later", lives_s=0)
        later.end(one)
        assert await later.family.sweep() == set()
        assert not any(map(lives, left))
        assert lives(service.pid)
    finally:
        service.kill()
        service.wait()


async def test_a_child_that_is_just_being_made_is_left_alone(desk: Desk) -> None:
    one, _ = desk.child("one", lives_s=600)
    desk.living.clear()  # its pid is not known yet
    desk.starting = True
    sweeping = asyncio.create_task(desk.family.sweep())
    await asyncio.sleep(0.2)
    assert lives(one.pid)
    sweeping.cancel()
    desk.living.add(one.pid)
