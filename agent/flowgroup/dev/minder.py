"""
What `flowgroup demo` and `flowgroup dev` started ends when they end, however they end: Ctrl-C, a closed terminal, kill -9.

The owner starts the minder first, in a session of its own, and holds the other end of the minder's standard input.
When that closes the owner is over, and the minder ends what the folder's notes name: processes, and the clusters and
relay of a pool. There is no other way of cleaning up, so the one that is rarely needed is the one that always runs.

The folder's lock passes from the owner to the minder: a temporary folder that nobody has locked has lost both, and the
next `flowgroup demo` ends what it finds there.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from flowgroup.daemon.owner import locked
from flowgroup.edge.local import Local
from flowgroup.edge.processes import Running, end, end_now, is_alive, python, running
from flowgroup.errors import Refused
from flowgroup.settings import PrefectSettings, environment_for_user_code

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOCK, _NOTES = "dev.lock", "dev.notes"
_STOP_TIMEOUT_S, _GRACE_S = 15.0, 5.0
_BEHIND_TIMEOUT_S = 30.0
_LOOK_S = 0.1
_YOUNG_S = 60.0


@dataclass(frozen=True, slots=True)
class Minded:
    """A folder of ours. Note everything that must not outlive us: a pool before its daemon, a process after its start."""

    folder: Path

    def pool(self, name: str) -> None:
        self._note(pool=name)

    def server(self, process: Running) -> None:
        """What the others need while they end."""
        self._note(server=asdict(process))

    def process(self, process: Running) -> None:
        self._note(process=asdict(process))

    def _note(self, **note: Any) -> None:
        with (self.folder / _NOTES).open("a") as file:
            file.write(json.dumps(note) + "\n")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """
    For the start of a process until it is noted: a signal that comes meanwhile interrupts us after the block.

    The signals are not blocked, for then they would be in the new process too.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    deferred = [number for number, handler in before.items() if callable(handler)]
    for number in deferred:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in deferred:
            signal.signal(number, before[number])
        if came:
            raise KeyboardInterrupt


@contextmanager
def minded(folder: Path, *, remove: bool = False) -> Iterator[Minded]:
    """
    After the block, everything that was noted during it has ended; with `remove`, the folder is gone as well.

    Raises Refused when somebody else has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / _LOCK).open("a+") as lock:
        _take(lock, folder)
        end_all(folder)  # a machine that lost its power leaves notes
        with uninterrupted():
            minder = _minder(folder, lock, remove)
        try:
            yield Minded(folder)
        except KeyboardInterrupt:
            print("\nending everything …", file=sys.stderr, flush=True)
            raise
        finally:
            assert minder.stdin is not None
            minder.stdin.close()
            if minder.wait():  # it was killed
                _clean(folder, remove)


def sweep(prefix: str) -> None:
    """End and remove what owners before us left among the temporary files, when their minders went with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            if folder.lstat().st_uid != os.getuid() or time.time() - (folder / _LOCK).stat().st_mtime < _YOUNG_S:
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clean(folder, True)
        except OSError:
            continue  # its owner lives


def end_all(folder: Path) -> None:
    """End what is noted in `folder`. Never a process that only has the pid of one that was noted."""
    notes = _notes(folder / _NOTES)
    processes = [one for note in notes if (one := _process(note.get("process")))]
    servers = [one for note in notes if (one := _process(note.get("server")))]
    end_now(processes, grace_s=_STOP_TIMEOUT_S)  # the daemon before its clusters: it would start them again
    asyncio.run(
        _end_rest(servers, [folder / note["pool"] for note in notes if (folder / note.get("pool", "?")).exists()])
    )
    (folder / _NOTES).unlink(missing_ok=True)


def end_pool(folder: Path) -> None:
    """Clusters and the relay outlive a daemon on purpose; here they must not. Those of a daemon that lives stay."""
    if folder.exists():
        asyncio.run(_end_pool(folder))


async def _end_rest(servers: list[Running], pools: list[Path]) -> None:
    await asyncio.gather(end(servers, grace_s=_GRACE_S), *(_end_pool(pool) for pool in pools))


async def _end_pool(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        if not await _lock(folder, stack):
            return  # somebody else's daemon serves this pool
        backend = Local(folder, PrefectSettings.model_construct())
        names = [found.name for found in await backend.find()]
        await asyncio.gather(*(backend.delete(name) for name in names), backend.end_relay())


async def _lock(folder: Path, stack: AsyncExitStack) -> bool:
    """Take the daemon's lock. One that was just killed may hold it for a moment more."""
    deadline = time.monotonic() + _GRACE_S
    while True:
        try:
            stack.enter_context(locked(folder))
        except Refused:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        else:
            return True


def main() -> None:
    """The minder's process: `FOLDER [remove]`."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    _clean(Path(sys.argv[1]), "remove" in sys.argv[2:])


def _minder(folder: Path, lock: IO[str], remove: bool) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603
        python("flowgroup.dev.minder", str(folder), *(["remove"] if remove else [])),
        stdin=subprocess.PIPE,
        env=environment_for_user_code(),
        cwd="/",
        pass_fds=[lock.fileno()],
        start_new_session=True,
    )


def _clean(folder: Path, remove: bool) -> None:
    end_all(folder)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


def _take(lock: IO[str], folder: Path) -> None:
    """Lock the folder. Waits while a minder still cleans up behind an owner that is over. Raises Refused."""
    deadline = time.monotonic() + _BEHIND_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = _owner(lock)
            if owner is None or is_alive(owner) or time.monotonic() > deadline:
                who = f"process {owner.pid}" if owner else "a process"
                raise Refused(
                    f"{folder} is in use by another flowgroup ({who}): stop it, or give --home another folder"
                ) from None
            time.sleep(_LOOK_S)
        else:
            lock.truncate(0)
            lock.write(json.dumps(asdict(running(os.getpid()))))
            lock.flush()
            return


def _owner(lock: IO[str]) -> Running | None:
    lock.seek(0)
    try:
        return _process(json.loads(lock.read()))
    except ValueError:
        return None


def _notes(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # its owner was killed while it wrote
    return found


def _process(told: Any) -> Running | None:
    try:
        return Running(int(told["pid"]), str(told["started"]))
    except (KeyError, TypeError, ValueError):
        return None


if __name__ == "__main__":
    main()
