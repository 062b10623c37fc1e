"""The desk over fake forks: what it knows of each attempt, whatever the child does."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.driver.desk import Desk
from flowgroup.driver.forks import Fds
from flowgroup.driver.outbox import Outbox
from flowgroup.driver.shipper import Shipper
from flowgroup.errors import Permanent
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import AttemptId, RunId, Token
from flowgroup.model.orders import Attempt, Cancel, Forget, Order, PrefectCode, Suspend


@dataclass
class FakeForks:
    """Children that are only a record. `end` ends one with a wait status; `broken` refuses to fork."""

    broken: bool = False
    forked: list[str] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    leashes: dict[str, socket.socket] = field(default_factory=dict)
    shippers: dict[str, Shipper] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    ends: dict[int, "asyncio.Future[int]"] = field(default_factory=dict)

    async def fork(self, attempt: str, order: str, folder: Path, fds: Fds) -> int:
        assert folder.is_dir()
        assert json.loads(order)["env"]["PREFECT_API_KEY"] == "token"
        if self.broken:
            for fd in fds:
                os.close(fd)
            raise Permanent("no forks today")
        self.forked.append(attempt)
        self.outputs[attempt], self.leashes[attempt] = fds.output, socket.socket(fileno=fds.leash)
        self.shippers[attempt] = Shipper(fds.shipper)
        self.pids[attempt] = 4_000_000 + len(self.forked)  # no process has it
        return self.pids[attempt]

    async def ended(self, pid: int) -> int:
        return await self.ends.setdefault(pid, asyncio.get_running_loop().create_future())

    def forget(self, pid: int) -> None:
        self.ends.pop(pid, None)

    def end(self, attempt: str, status: int) -> None:
        os.close(self.outputs[attempt])
        self.leashes[attempt].close()
        self.shippers[attempt].close()
        pid = self.pids[attempt]
        self.ends.setdefault(pid, asyncio.get_running_loop().create_future()).set_result(status)

    def say(self, attempt: str, text: bytes) -> None:
        self.leashes[attempt].sendall(text)


class Relay:
    """Takes every record, unless it is `away`."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.is_away = False

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            return httpx.Response(503)
        self.taken += json.loads(request.content)["attempts"]
        return httpx.Response(200)


RELAY = Relay()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[tuple[Desk, FakeForks]]:
    forks = FakeForks()
    RELAY.__init__()  # type: ignore[misc]
    client = httpx.AsyncClient(transport=httpx.MockTransport(RELAY.answer))
    outbox = Outbox(client, Endpoint.at(Path("relay.sock")))
    async with client, asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(outbox.run())
        yield (
            Desk(
                forks=forks,
                folder=tmp_path,
                api_url="http://127.0.0.1:1/api",
                storage=str(tmp_path / "results"),
                scheduler=None,
                output_limit_bytes=1000,
                outbox=outbox,
                tasks=tasks,
            ),
            forks,
        )
        sending.cancel()


def order(name: str = "a") -> Order:
    return Order(
        run_id=RunId(f"run-{name}"),
        run_name=name,
        flow_name="f",
        attempt=AttemptId(name),
        token=Token("token"),
        code=PrefectCode(),
    )


async def until(desk: Desk, name: str, phase: str) -> Attempt:
    async with asyncio.timeout(10):
        while True:
            found = [
                attempt for attempt in desk.status().attempts if attempt.attempt == name and attempt.phase == phase
            ]
            if found:
                return found[0]
            await asyncio.sleep(0.01)


async def started(desk: tuple[Desk, FakeForks], name: str = "a") -> None:
    desk[0].take(order(name))
    async with asyncio.timeout(10):
        while name not in desk[1].pids:
            await asyncio.sleep(0.01)


async def test_an_order_that_comes_twice_starts_one_child(desk: tuple[Desk, FakeForks]) -> None:
    await started(desk)
    desk[0].take(order())
    desk[1].end("a", 0)
    await until(desk[0], "a", "ended")
    desk[0].take(order())
    assert desk[1].forked == ["a"]


async def test_the_notes_of_the_child_are_in_its_exit(desk: tuple[Desk, FakeForks], tmp_path: Path) -> None:
    await started(desk)
    desk[1].say("a", b'{"phase": "running"}\n')
    await until(desk[0], "a", "running")
    os.write(desk[1].outputs["a"], b"the last words\n")
    desk[1].say("a", b'{"reported": true}\n')
    desk[1].end("a", 3 << 8)
    ended = (await until(desk[0], "a", "ended")).exit
    assert ended
    assert (ended.code, ended.signal, ended.reached_user_code, ended.reported) == (3, None, True, True)
    assert ended.tail == "the last words"
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    "nonsense", [b"\xff\xfe\n", b"[]\n", b'{"phase": "god"}\n', b'{"reported": "yes"}\n', b"x" * 100_000 + b"\n"]
)
async def test_what_user_code_writes_to_the_leash_is_not_believed(
    desk: tuple[Desk, FakeForks], nonsense: bytes
) -> None:
    await started(desk)
    sending = asyncio.to_thread(desk[1].say, "a", nonsense)
    await sending
    desk[1].end("a", signal.SIGKILL)
    ended = (await until(desk[0], "a", "ended")).exit
    assert ended
    assert (ended.signal, ended.reported, ended.reached_user_code) == (signal.SIGKILL, False, False)


async def test_a_fork_that_fails_costs_one_run(desk: tuple[Desk, FakeForks]) -> None:
    desk[1].broken = True
    desk[0].take(order())
    ended = (await until(desk[0], "a", "ended")).exit
    assert ended
    assert "no forks today" in str(ended.cause)
    desk[1].broken = False
    await started(desk, "b")
    desk[1].end("b", 0)
    await until(desk[0], "b", "ended")


async def test_forget_drops_only_what_has_ended(desk: tuple[Desk, FakeForks]) -> None:
    await started(desk)
    desk[0].forget(Forget(attempts=(AttemptId("a"),)))
    assert desk[0].status().attempts
    desk[1].end("a", 0)
    await until(desk[0], "a", "ended")
    desk[0].forget(Forget(attempts=(AttemptId("a"),)))
    assert desk[0].status().attempts == ()


async def test_an_attempt_has_ended_when_the_relay_has_all_that_its_child_said(desk: tuple[Desk, FakeForks]) -> None:
    await started(desk)
    RELAY.is_away = True
    await asyncio.to_thread(desk[1].shippers["a"].log, {"message": "the last line"})
    desk[1].end("a", 9)
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await until(desk[0], "a", "ended")
    RELAY.is_away = False
    await until(desk[0], "a", "ended")
    assert RELAY.taken == [{"token": "token", "logs": [{"message": "the last line"}]}]


async def test_a_suspension_reaches_the_child(desk: tuple[Desk, FakeForks]) -> None:
    await started(desk)
    desk[0].suspend(Suspend(attempt=AttemptId("a")))
    assert await asyncio.to_thread(desk[1].leashes["a"].recv, 1) == b"s"
    desk[0].suspend(Suspend(attempt=AttemptId("unknown")))
    desk[1].end("a", 0)
    await until(desk[0], "a", "ended")


async def test_a_cancel_asks_the_child_first(desk: tuple[Desk, FakeForks]) -> None:
    await started(desk)
    desk[0].cancel(Cancel(attempt=AttemptId("a"), grace_s=0.1))
    asked = await asyncio.to_thread(desk[1].leashes["a"].recv, 1)
    assert asked == b"c"
    desk[1].end("a", 0)
    await until(desk[0], "a", "ended")


async def test_a_child_that_has_told_its_end_is_not_disturbed_while_it_says_the_rest(
    desk: tuple[Desk, FakeForks],
) -> None:
    await started(desk)
    desk[1].say("a", b'{"reported": true}\n')
    async with asyncio.timeout(10):
        while not desk[0]._carried[AttemptId("a")].notes.get("reported"):
            await asyncio.sleep(0.01)
    desk[0].cancel(Cancel(attempt=AttemptId("a"), grace_s=60))
    await asyncio.sleep(0.1)
    desk[1].leashes["a"].setblocking(False)
    with pytest.raises(BlockingIOError):
        desk[1].leashes["a"].recv(1)
    desk[1].end("a", 0)
    assert (await until(desk[0], "a", "ended")).exit


async def test_a_child_that_the_kernel_keeps_is_given_up(
    desk: tuple[Desk, FakeForks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowgroup.driver.desk._KILLED_S", 0.2)
    monkeypatch.setattr("flowgroup.driver.desk._COMMIT_S", 0.1)
    await started(desk)
    desk[0].cancel(Cancel(attempt=AttemptId("a"), grace_s=0.1))
    ended = (await until(desk[0], "a", "ended")).exit
    assert ended
    assert ended.signal == signal.SIGKILL
    assert "waits in the kernel" in str(ended.cause)
    desk[1].end("a", 9)  # it ended after all: nobody minds


async def test_output_is_kept_up_to_its_limit_and_its_tail_always(desk: tuple[Desk, FakeForks], tmp_path: Path) -> None:
    await started(desk)
    await asyncio.to_thread(os.write, desk[1].outputs["a"], b"".join(b"line %d\n" % n for n in range(3000)))
    desk[1].end("a", 0)
    ended = (await until(desk[0], "a", "ended")).exit
    assert ended
    assert ended.tail.splitlines()[-1] == "line 2999"
    assert len(ended.tail.splitlines()) == 20
    assert (tmp_path / "outputs" / "a.log").stat().st_size <= 64 * 1024
