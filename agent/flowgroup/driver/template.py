"""One template as the desk has it: a fork of the zygote that imports modules, and then forks children itself."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgroup import log
from flowgroup.driver.forks import Fds, Forks, pair
from flowgroup.driver.zygote import MAX_PACKET
from flowgroup.errors import Permanent

_log = log.get()


class Unfit(Permanent):
    """A module cannot be imported before a fork: it says so, or the template died of it."""

    def __init__(self, module: str, why: str) -> None:
        super().__init__(f"{module}: {why}")
        self.module = module
        self.why = why


@dataclass(eq=False)
class Template:
    """`Forks`, for the runs of one environment. Ends when it is retired and its last child has ended: they die with it."""

    name: str
    pid: int
    forks: Forks
    served: int = 0
    alive: bool = True
    _busy: int = 0
    _retired: bool = False
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def fork(self, attempt: str, order: str, folder: Path, fds: Fds) -> int:
        self.served += 1
        self._busy += 1
        try:
            pid = await self.forks.fork(attempt, order, folder, fds)
        except Permanent:
            self._one_less()
            raise
        _log.info("forked_from_template", template=self.name, attempt=attempt, pid=pid)
        return pid

    async def ended(self, pid: int) -> int:
        return await self.forks.ended(pid)

    def forget(self, pid: int) -> None:
        self.forks.forget(pid)
        self._one_less()

    def retire(self) -> None:
        """No new run is forked here."""
        self._retired = True
        self._end_if_idle()

    async def last(self) -> None:
        """Until it is retired and idle. Raises Permanent when it dies before."""
        listening = asyncio.create_task(self.forks.listen(), name=self.name)
        idle = asyncio.create_task(self._idle.wait(), name=f"{self.name} idle")
        try:
            await asyncio.wait({listening, idle}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.alive = False
            for task in (listening, idle):
                task.cancel()
            await asyncio.gather(listening, idle, return_exceptions=True)
        if not self._idle.is_set():
            raise Permanent(f"{self.name} died, and the runs that it had forked with it")

    def _one_less(self) -> None:
        self._busy -= 1
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._retired and not self._busy:
            self._idle.set()


@contextlib.asynccontextmanager
async def warmed(
    zygote: Forks, name: str, folder: Path, wish: dict[str, Any], *, timeout_s: float
) -> AsyncIterator[Template]:
    """
    A template that has imported what the wish names. It is gone at the end, with its folder and its children.

    Raises Unfit if a module cannot be, TimeoutError, or Permanent when the zygote is gone.
    """
    await asyncio.to_thread(_make_empty, folder)
    ours, theirs = pair()
    pid: int | None = None
    try:
        pid = await zygote.template(name, json.dumps(wish), folder, control=theirs.detach())
        async with asyncio.timeout(timeout_s):
            await _ready(ours)
        yield Template(name, pid, Forks(ours, what="template"))
    finally:
        ours.close()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            zygote.abandon(pid)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


async def _ready(control: socket.socket) -> None:
    control.setblocking(False)
    importing = ""
    while packet := await asyncio.get_running_loop().sock_recv(control, MAX_PACKET):
        said = json.loads(packet)
        if "unfit" in said:
            raise Unfit(said["unfit"], said["why"])
        if "ready" in said:
            return
        importing = said.get("importing", importing)
    if importing:
        raise Unfit(importing, "the process ended while it imported this")
    raise Permanent("the template ended before it was ready")
