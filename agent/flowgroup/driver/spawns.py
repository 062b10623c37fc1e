"""
Children as fresh processes instead of forks: where a fork is not safe (macOS), and for a run whose environment only a new
process can take. Some seconds slower: each imports Prefect anew.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from flowgroup.driver.forks import Fds


def command(brief_fd: int, leash_fd: int, shipper_fd: int) -> list[str]:
    """The command line of a child that reads its brief from one descriptor, holds its leash by another and ships to a third."""
    return [sys.executable, "-m", "flowgroup.rooms", "child", str(brief_fd), str(leash_fd), str(shipper_fd)]


def brief_file(brief: str) -> int:
    """A descriptor that reads the brief, which has no name that anybody else could open it by."""
    with tempfile.TemporaryFile() as file:
        file.write(brief.encode())
        file.flush()
        fd = os.dup(file.fileno())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Spawns:
    """What `Forks` does, with new processes."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def fork(self, attempt: str, order: str, folder: Path, fds: Fds) -> int:
        """A new child. The descriptors are the child's from then on. Raises OSError."""
        brief = brief_file(order)
        try:
            process = await asyncio.create_subprocess_exec(
                *command(brief, fds.leash, fds.shipper),
                cwd=folder,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=fds.output,
                stderr=fds.output,
                pass_fds=[brief, fds.leash, fds.shipper],
                start_new_session=True,
            )
        finally:
            for fd in (brief, *fds):
                os.close(fd)
        self._running[process.pid] = process
        return process.pid

    async def ended(self, pid: int) -> int:
        """Wait until the child has ended; its status as waitpid gives it."""
        code = await self._running[pid].wait()
        return -code if code < 0 else code << 8

    def forget(self, pid: int) -> None:
        self._running.pop(pid, None)

    async def listen(self) -> None:
        """There is no zygote that could die."""
        await asyncio.Event().wait()

    def kill(self) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@contextlib.asynccontextmanager
async def spawning(env: dict[str, str]) -> AsyncIterator[Spawns]:
    """Children by spawn; none is left at the end."""
    spawns = Spawns(env)
    try:
        yield spawns
    finally:
        spawns.kill()
