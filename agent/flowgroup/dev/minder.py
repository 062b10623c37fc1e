"""
What `flowgroup demo` and `flowgroup dev` started ends when they end, however they end: Ctrl-C, a closed terminal, kill -9.

The owner starts the minder first, in a session of its own, and holds the other end of the minder's standard input.
When that closes the owner is over, and the minder ends what the folder says there is: the processes that the owner
noted, the pools' clusters and relays. There is no other way of cleaning up, so the one that is rarely needed is the
one that always runs.

The folder's lock goes from the owner to the minder: a folder that nobody has locked has lost both, and the next
`flowgroup demo` ends what it finds there.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from flowgroup.edge.processes import Running, end_now, python
from flowgroup.errors import Refused
from flowgroup.settings import environment_for_user_code

_LOCK, _NOTES = "dev.lock", "dev.processes"
_DAEMON_GRACE_S, _GRACE_S = 10.0, 5.0
_LOCK_TIMEOUT_S = 30.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Minded:
    """A folder whose processes are minded: note each right after its start. Those noted last end first."""

    folder: Path

    def note(self, process: Running) -> Running:
        with (self.folder / _NOTES).open("a") as file:
            file.write(json.dumps(asdict(process)) + "\n")
        return process


@contextmanager
def minded(folder: Path, *, remove: bool = False) -> Iterator[Minded]:
    """
    Everything that is noted during the block, and every pool below `folder`, has ended after it; with `remove`, the
    folder is gone as well. Raises Refused when somebody else has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / _LOCK).open("a+") as lock:
        _take(lock, folder)
        end_all(folder)  # what a machine that lost its power left: an old note never matches a new process
        arguments = [str(folder), *(["--remove"] if remove else [])]
        minder = subprocess.Popen(  # noqa: S603
            python("flowgroup.dev.minder", *arguments, "--lock", str(lock.fileno())),
            stdin=subprocess.PIPE,
            env=environment_for_user_code(),
            cwd="/",
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
        try:
            yield Minded(folder)
        finally:
            assert minder.stdin is not None
            minder.stdin.close()
            minder.wait()


def sweep(prefix: str) -> None:
    """End and remove what earlier owners left below the folder for temporary files, minders included."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end_all(folder)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its owner lives, or it is somebody else's


def end_all(folder: Path) -> None:
    """End the processes noted in `folder`, and the clusters and relay of each pool below it."""
    notes = folder / _NOTES
    noted = _noted(notes)
    end_now(noted[1:][::-1], grace_s=_DAEMON_GRACE_S)  # the daemon before its clusters: it would start them again
    for relay in folder.glob("*/relay.key"):
        end_pool(relay.parent)
    end_now(noted[:1], grace_s=_GRACE_S)
    notes.unlink(missing_ok=True)


def end_pool(folder: Path) -> None:
    """Clusters and the relay outlive a daemon on purpose; here they must not."""
    from flowgroup.edge.local import Local
    from flowgroup.settings import PrefectSettings

    async def end() -> None:
        backend = Local(folder, PrefectSettings())
        names = [found.name for found in await backend.find()]
        await asyncio.gather(*(backend.delete(name) for name in names), backend.end_relay())

    asyncio.run(end())


def main() -> None:
    """The minder's process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    sys.stdin.read()
    end_all(folder)
    if "--remove" in sys.argv:
        shutil.rmtree(folder, ignore_errors=True)


def _take(lock: IO[str], folder: Path) -> None:
    """Waits while a minder still cleans up behind an owner that is over."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip()
            if _lives(owner) or time.monotonic() > deadline:
                raise Refused(
                    f"another flowgroup (process {owner or 'unknown'}) serves from {folder}: stop it, or give --home another folder"
                ) from None
            time.sleep(_LOOK_S)
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            return


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _noted(notes: Path) -> list[Running]:
    try:
        lines = notes.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Running(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # its owner was killed while it wrote
    return found


if __name__ == "__main__":
    main()
