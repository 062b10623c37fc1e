"""The desk's hand on the zygote: starts it, asks it to fork, and hears of children's ends."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flowgroup import log
from flowgroup.driver.zygote import MAX_PACKET
from flowgroup.errors import Permanent

_log = log.get()
_START_TIMEOUT_S = 120.0


class Fds(NamedTuple):
    """The child's ends: its output, its leash, and what it ships."""

    output: int
    leash: int
    shipper: int


@dataclass
class Forks:
    """A running zygote, or a template (`what`). `fork` gives a child's pid, `ended` its wait status."""

    control: socket.socket
    process: asyncio.subprocess.Process | None = None
    what: str = "zygote"
    _forked: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    _ended: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    _abandoned: set[int] = field(default_factory=set)

    async def fork(self, attempt: str, order: str, folder: Path, fds: Fds) -> int:
        """
        A new child for this order. The descriptors are the child's from then on.

        Raises Permanent when the zygote is gone.
        """
        return await self._ask({"attempt": attempt, "folder": str(folder), "order": order}, list(fds))

    async def template(self, name: str, wish: str, folder: Path, *, control: int) -> int:
        """A new template, which speaks on `control` from then on. Raises Permanent when the zygote is gone."""
        return await self._ask({"attempt": name, "template": True, "folder": str(folder), "order": wish}, [control])

    async def _ask(self, request: dict[str, str | bool], fds: list[int]) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._forked[str(request["attempt"])] = answer
        try:
            socket.send_fds(self.control, [json.dumps(request).encode()], fds)
        except OSError as exc:
            raise Permanent(f"the driver's {self.what} takes no more orders: {exc}") from exc
        finally:
            for fd in fds:
                os.close(fd)
        return await answer

    async def ended(self, pid: int) -> int:
        """Wait until the child has ended; its status as waitpid gives it."""
        return await self._ended_future(pid)

    def _ended_future(self, pid: int) -> "asyncio.Future[int]":
        return self._ended.setdefault(pid, asyncio.get_running_loop().create_future())

    async def listen(self) -> None:
        """Hear the zygote until it ends. Ends only when the zygote does: that is an error unless we are stopping."""
        loop = asyncio.get_running_loop()
        self.control.setblocking(False)
        while packet := await loop.sock_recv(self.control, MAX_PACKET):
            self._hear(json.loads(packet))
        for waiting in [*self._forked.values(), *self._ended.values()]:
            if not waiting.done():
                waiting.set_exception(Permanent(f"the driver's {self.what} died, and the run's process with it"))

    def _hear(self, message: dict[str, int | str]) -> None:
        if "forked" in message:
            self._forked.pop(str(message["forked"])).set_result(int(message["pid"]))
        elif "exited" in message:
            self._hear_end(int(message["exited"]), int(message["status"]))

    def _hear_end(self, pid: int, status: int) -> None:
        if pid in self._abandoned:
            self._abandoned.discard(pid)
            return
        ended = self._ended_future(pid)
        if not ended.done():
            ended.set_result(status)

    def forget(self, pid: int) -> None:
        self._ended.pop(pid, None)

    def abandon(self, pid: int) -> None:
        """Forget a child whose end may not have been heard yet: its number will be another's one day."""
        ended = self._ended.pop(pid, None)
        if ended is None or not ended.done():
            self._abandoned.add(pid)


def pair() -> tuple[socket.socket, socket.socket]:
    """The desk's and the zygote's end of a control socket."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_PACKET)
    return ends


@contextlib.asynccontextmanager
async def zygote(env: dict[str, str]) -> AsyncIterator[Forks]:
    """A zygote that has imported Prefect and is ready to fork; gone, with all of its children, at the end."""
    ours, theirs = pair()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "flowgroup.rooms",
                "zygote",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env=env,
            )
        try:
            await _ready(ours)
            yield Forks(ours, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _ready(control: socket.socket) -> None:
    control.setblocking(False)
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            hello = await asyncio.get_running_loop().sock_recv(control, MAX_PACKET)
    except TimeoutError as exc:
        raise Permanent(
            f"the zygote was not ready within {_START_TIMEOUT_S:.0f} s: is this machine overloaded?"
        ) from exc
    if not hello:
        raise Permanent(
            "the zygote ended while it imported Prefect: is flowgroup[runtime] installed here, and does Prefect take each "
            "PREFECT_ variable of the deployment's env? See driver.log"
        )
    said = json.loads(hello)
    if said["threads"] != 1:
        raise Permanent(f"the zygote has {said['threads']} threads after importing, so it cannot fork safely")
    _log.info("zygote_ready", pid=said["ready"])
