"""Processes that outlive us: started in a session of their own, known by pid and start time, ended by session."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LOOK_S = 0.05
_MUTE_S, _AGAIN_S = 0.2, 0.001


@dataclass(frozen=True, slots=True)
class Running:
    """A process as it was when it started. A pid alone may be somebody else's by now."""

    pid: int
    started: str


def spawn(argv: list[str], *, env: dict[str, str], cwd: Path, log: Path, stdin: str = "") -> Running:
    """
    Start `argv` in `cwd` in a session of its own, its output appended to `log`, `stdin` as its whole input.

    Raises OSError.
    """
    cwd.mkdir(parents=True, exist_ok=True)
    in_r, in_w = os.pipe()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *argv],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, in_r, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, out, 2),
            ],
            setsid=True,
        )
        os.write(in_w, stdin.encode())
    finally:
        for fd in (in_r, in_w, out):
            os.close(fd)
    return running(pid)


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module under this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def running(pid: int) -> Running:
    """A process that runs now, so that it is known again."""
    return Running(pid, _started(pid) or "")


def is_alive(process: Running) -> bool:
    """Whether it still runs: the same start time, and no zombie. Reaps it if it was our child and has ended."""
    with contextlib.suppress(ChildProcessError):  # not our child: it was started before us
        os.waitpid(process.pid, os.WNOHANG)
    return bool(process.started) and _started(process.pid) == process.started


async def end(processes: list[Running], *, grace_s: float) -> None:
    """SIGTERM to each process that still runs, and after `grace_s` SIGKILL to all of its session."""
    await asyncio.to_thread(end_now, processes, grace_s=grace_s)


def end_now(processes: list[Running], *, grace_s: float) -> None:
    """The same, without an event loop."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    for process in processes:
        _signal(process, signal.SIGKILL, whole_session=True)
        is_alive(process)  # reaps it


def strays(mark: str, known: list[Running]) -> list[Running]:
    """Processes in sessions of their own whose command line names `mark`, a path of ours: started, and not written down."""
    found, deadline = [], time.monotonic() + _MUTE_S
    for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
        if entry.name.isdigit() and os.getsid(0) != int(entry.name):
            try:
                leads = os.getsid(int(entry.name)) == int(entry.name)
                named = leads and mark.encode() in _command_line(int(entry.name), deadline)
            except (OSError, ProcessLookupError):
                continue
            if named:
                found.append(Running(int(entry.name), _started(int(entry.name)) or ""))
    return [process for process in found if process not in known]


def _command_line(pid: int, deadline: float) -> bytes:
    """While a process becomes another program it has none for a moment: it is asked again. Raises OSError when it is gone."""
    while True:
        said = Path(f"/proc/{pid}/cmdline").read_bytes()
        if said or _started(pid) is None or time.monotonic() >= deadline:
            return said
        time.sleep(_AGAIN_S)


def _signal(process: Running, number: signal.Signals, *, whole_session: bool = False) -> None:
    alive = is_alive(process)
    try:
        if whole_session and (alive or (_started(process.pid) is None and process.started.startswith(_boot()))):
            os.killpg(process.pid, number)  # a session's group lives on without its leader, and its id with it
        elif alive:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _started(pid: int) -> str | None:
    """When a process started, in the system's own words; None if there is none or it is a zombie."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
        except (OSError, IndexError):
            return None
        return None if fields[0] == b"Z" else f"{_boot()}/{fields[19].decode()}"
    told = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = told.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


@cache
def _boot() -> str:
    """Which start of this machine this is: a pid and a start time say nothing across two of them."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
