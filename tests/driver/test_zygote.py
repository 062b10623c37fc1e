"""The zygote's process with real forks, without Prefect: what it is handed decides what a child does."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowgroup.driver.forks import Fds, Forks
from flowgroup.driver.zygote import MAX_PACKET
from flowgroup.errors import Permanent

PROGRAM = textwrap.dedent(
    """
    import os, socket, sys, time
    from flowgroup.driver.zygote import serve

    def run(order, leash, shipper):
        what, _, more = order.decode().partition(" ")
        if what == "exit":
            return int(more)
        if what == "raise":
            raise RuntimeError(more)
        if what == "tell":
            print(os.getcwd(), repr(sys.stdin.read()), os.getpid() == os.getsid(0), flush=True)
        if what == "sleep":
            time.sleep(float(more))
        if what == "leash":
            os.write(leash, more.encode())
        if what == "ship":
            os.write(shipper, more.encode())
        return 0

    serve(socket.socket(fileno=int(sys.argv[1])), run)
    """
)


@dataclass
class Child:
    pid: int
    output: int
    leash: socket.socket
    shipped: socket.socket

    def close(self) -> None:
        self.leash.close()
        self.shipped.close()

    def said(self) -> str:
        with os.fdopen(self.output, "rb") as pipe:
            return pipe.read().decode()


@dataclass
class Zygote:
    forks: Forks
    folder: Path

    async def fork(self, order: str) -> Child:
        output, theirs = os.pipe()
        leash, end = socket.socketpair()
        shipped, shipper = socket.socketpair()
        try:
            pid = await self.forks.fork(order, order, self.folder, Fds(theirs, end.detach(), shipper.detach()))
        except Permanent:
            leash.close()
            shipped.close()
            os.close(output)
            raise
        return Child(pid, output, leash, shipped)


@pytest.fixture
async def zygote(tmp_path: Path) -> AsyncIterator[Zygote]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(theirs.fileno()),
        pass_fds=[theirs.fileno()],
        env=dict(os.environ, PYTHONPATH="agent"),
    )
    theirs.close()
    ours.setblocking(False)
    hello = json.loads(await asyncio.get_running_loop().sock_recv(ours, MAX_PACKET))
    assert hello["threads"] == 1
    forks = Forks(ours, process)
    listening = asyncio.create_task(forks.listen(), name="listen")
    yield Zygote(forks, tmp_path)
    ours.close()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_children_end_with_their_own_status(zygote: Zygote) -> None:
    children = [await zygote.fork(f"exit {code}") for code in (0, 3, 70)]
    codes = [os.WEXITSTATUS(await zygote.forks.ended(child.pid)) for child in children]
    for child in children:
        child.close()
        os.close(child.output)
    assert codes == [0, 3, 70]


async def test_a_child_has_a_session_a_folder_and_an_empty_input_of_its_own(zygote: Zygote) -> None:
    child = await zygote.fork("tell")
    await zygote.forks.ended(child.pid)
    child.close()
    assert child.said().split() == [str(zygote.folder), "''", "True"]


async def test_an_exception_is_in_the_output_and_never_makes_another_zygote(zygote: Zygote) -> None:
    child = await zygote.fork("raise something is wrong")
    assert os.WEXITSTATUS(await zygote.forks.ended(child.pid)) == 1
    child.close()
    assert "RuntimeError: something is wrong" in child.said()
    again = await zygote.fork("exit 4")
    assert os.WEXITSTATUS(await zygote.forks.ended(again.pid)) == 4
    again.close()
    os.close(again.output)


async def test_a_signal_is_told_as_a_signal(zygote: Zygote) -> None:
    child = await zygote.fork("sleep 60")
    os.kill(child.pid, signal.SIGKILL)
    assert os.WTERMSIG(await zygote.forks.ended(child.pid)) == signal.SIGKILL
    child.close()
    os.close(child.output)


async def test_what_the_child_ships_arrives_beside_its_leash(zygote: Zygote) -> None:
    child = await zygote.fork("ship a line")
    await zygote.forks.ended(child.pid)
    os.close(child.output)
    assert child.shipped.recv(100) == b"a line"
    child.close()


async def test_the_leash_reaches_the_child(zygote: Zygote) -> None:
    child = await zygote.fork("leash hello")
    await zygote.forks.ended(child.pid)
    assert child.leash.recv(100) == b"hello"
    child.close()
    os.close(child.output)


async def test_a_zygote_that_dies_takes_its_children_along_and_all_are_told(zygote: Zygote) -> None:
    child = await zygote.fork("sleep 60")
    ended = asyncio.create_task(zygote.forks.ended(child.pid), name="ended")
    await asyncio.sleep(0)
    zygote.forks.process.kill()
    with pytest.raises(Permanent, match="zygote died"):
        await asyncio.wait_for(ended, 10)
    assert await asyncio.to_thread(child.said) == ""  # the pipe ends when the child is gone
    child.close()
    with pytest.raises(Permanent):
        await zygote.fork("exit 0")


def test_the_zygote_imports_neither_asyncio_nor_prefect() -> None:
    look = "import sys, flowgroup.driver.zygote; print([m for m in ('asyncio', 'prefect', 'threading') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", look],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "agent"},
    )
    assert done.stdout.strip() == "[]"
