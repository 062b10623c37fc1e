"""The line to the drivers, on a real Unix socket, and what a watch makes of it. Time is real and short."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowgroup.daemon.cancel import Asked
from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.watch import Watch
from flowgroup.errors import Refused, Transient
from flowgroup.model.ids import AttemptId, ClusterName, FlowId, RunId, Token
from flowgroup.model.orders import Attempt, Exit, Hello, Order, PrefectCode, encode
from flowgroup.model.runs import Cancelled, Lost, Outcome, Reported, SentRun
from flowgroup.model.spec import ClusterSpec
from tests.fakes.backend import Engine, FakeBackend, completes

SPEC = ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool")
NAME = SPEC.name
SENT = SentRun(RunId("run"), AttemptId("attempt"), NAME)


def order(attempt: str = "attempt") -> Order:
    return Order(
        run_id=RunId("run"),
        run_name="run",
        flow_name="etl",
        attempt=AttemptId(attempt),
        token=Token("t"),
        code=PrefectCode(),
    )


@dataclass
class Setting:
    drivers: Drivers
    backend: FakeBackend
    socket: Path

    async def connected(self) -> None:
        await until(lambda: self.drivers.has_reported(NAME))

    def watch(self, asked: Asked | None = None) -> "asyncio.Task[Outcome]":
        watch = Watch(self.drivers, self.backend.look, self.backend.fate, cancel_grace_s=0.1, driver_lost_s=0.5)
        return asyncio.create_task(watch.outcome(SENT, asked=asked or Asked(), on_running=lambda: None))


async def until(is_so: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.01)


async def hangs(order: Order, running: Callable[[], None]) -> Exit:
    running()
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def setting(tmp_path: Path, engine: Engine = completes) -> AsyncIterator[Setting]:
    socket = tmp_path / "daemon.sock"
    drivers, backend = Drivers(), FakeBackend(socket, engine)
    async with drivers.serve(socket, lambda name: found.secret if (found := backend.clusters.get(name)) else None):
        await backend.create(SPEC)
        at = Setting(drivers, backend, socket)
        await at.connected()
        try:
            yield at
        finally:
            await backend.aclose()


async def test_an_order_is_carried_out_and_its_end_is_watched_and_forgotten(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        at.drivers.send(NAME, order())
        assert await at.watch() == Reported()
        at.drivers.forget(NAME, SENT.attempt)
        assert at.drivers.carried() == []
        await until(lambda: not at.backend.drivers[NAME].attempts)
        await until(lambda: not at.drivers.view(NAME).forgotten)
        assert at.drivers.carried() == []


async def test_an_order_that_is_sent_twice_runs_once(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        at.drivers.send(NAME, order())
        await until(lambda: len(at.backend.drivers[NAME].orders) == 2)
        assert len(at.backend.drivers[NAME]._children) == 1


async def test_without_a_driver_on_the_line_an_order_is_transient(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        await at.backend.kill(NAME)
        await until(lambda: not at.drivers.view(NAME).is_connected)
        with pytest.raises(Transient):
            at.drivers.send(NAME, order())


async def test_the_socket_is_ours_alone(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        assert at.socket.stat().st_mode & 0o777 == 0o600


async def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with Drivers().serve(tmp_path / ("x" * 200), lambda _: None):
            pass
    assert caught.group_contains(Refused, match="FLOWGROUP_HOME")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"not json\n",
        b"[]\n",
        b'{"type":"status","ready":true}\n',
        encode(Hello(cluster=NAME, secret="wrong", python="3", prefect="3", pid=1)),
        encode(Hello(cluster=NAME, secret="wrøng ✓", python="3", prefect="3", pid=1)),
        encode(Hello(cluster=ClusterName("other"), secret="", python="3", prefect="3", pid=1)),
        encode(Hello(cluster=NAME, secret=f"secret of {NAME}", python="3", prefect="3", pid=1)) * 2,
        encode(Hello(cluster=NAME, secret=f"secret of {NAME}", python="3", prefect="3", pid=1)) + b"{}\n",
        b"x" * (9 * 1024 * 1024) + b"\n",
        b"[" * 100_000 + b"\n",
    ],
)
async def test_whoever_talks_nonsense_is_hung_up_on_and_nobody_else(tmp_path: Path, line: bytes) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        watch = at.watch()
        reader, writer = await asyncio.open_unix_connection(str(at.socket), limit=2**24)
        try:
            writer.write(line)
            if not line:
                writer.write_eof()
            async with asyncio.timeout(5):
                while await reader.read(2**16):
                    pass
        except ConnectionError:
            pass
        finally:
            writer.close()
        await at.connected()
        assert not watch.done()
        watch.cancel()


async def test_a_run_survives_a_lost_connection(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        watch = at.watch()
        driver = at.backend.drivers[NAME]
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        driver.hang_up()
        await until(lambda: not at.drivers.view(NAME).is_connected)
        await at.connected()
        assert not watch.done()
        driver.change(Attempt(run_id=SENT.id, attempt=SENT.attempt, phase="ended", exit=Exit(reported=True)))
        assert await watch == Reported()
        assert len(driver.orders) == 1


async def test_an_order_that_got_lost_is_sent_again_to_the_same_process(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        driver = at.backend.drivers[NAME]
        driver.is_deaf = True
        at.drivers.send(NAME, order())
        watch = at.watch()
        await asyncio.sleep(0.1)
        assert driver.orders == []
        driver.is_deaf = False
        driver.hang_up()
        assert await watch == Reported()
        assert len(driver.orders) == 1


async def test_a_driver_that_dies_crashes_its_runs_with_the_reason(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        watch = at.watch()
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        await at.backend.kill(NAME, "killed by the kernel: give it more memory")
        async with asyncio.timeout(2):
            outcome = await watch
        assert isinstance(outcome, Lost)
        assert "give it more memory" in outcome.reason


async def test_a_run_that_was_on_a_driver_is_never_given_to_its_successor(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        watch = at.watch()
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        await at.backend.kill(NAME)
        successor = at.backend.start(NAME)
        outcome = await watch
        assert isinstance(outcome, Lost)
        assert successor.orders == []


async def test_a_run_that_no_driver_took_is_given_back(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        at.backend.drivers[NAME].is_deaf = True
        at.drivers.send(NAME, order())
        watch = at.watch()
        await asyncio.sleep(0.1)
        await at.backend.kill(NAME)
        successor = at.backend.start(NAME)
        assert isinstance(await watch, Lost)
        assert successor.orders == []


async def test_a_silent_driver_whose_process_lives_is_waited_for(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        watch = at.watch()
        at.backend.drivers[NAME].is_deaf = True
        await asyncio.sleep(2)
        assert not watch.done()
        at.backend.dead[NAME] = "gone"
        async with asyncio.timeout(2):
            assert isinstance(await watch, Lost)


async def test_a_cancellation_reaches_the_driver_also_over_a_new_connection(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        asked = Asked()
        at.drivers.send(NAME, order())
        watch = at.watch(asked)
        driver = at.backend.drivers[NAME]
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        driver.hang_up()
        await until(lambda: not at.drivers.view(NAME).is_connected)
        asked.cancel.set()
        assert isinstance(await watch, Cancelled)
        assert driver.cancels[0].grace_s == 0.1


async def test_a_suspension_reaches_the_driver_also_over_a_new_connection(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        asked = Asked()
        at.drivers.send(NAME, order())
        watch = at.watch(asked)
        driver = at.backend.drivers[NAME]
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        asked.suspend.set()
        await until(lambda: len(driver.suspends) == 1)
        driver.hang_up()
        await until(lambda: len(driver.suspends) == 2)
        assert {frame.attempt for frame in driver.suspends} == {SENT.attempt}
        assert not driver.cancels
        asked.cancel.set()  # one may still be cancelled
        assert isinstance(await watch, Cancelled)
        at.drivers.forget(NAME, SENT.attempt)
        driver.hang_up()
        await until(lambda: not at.drivers.view(NAME).is_connected)
        await until(lambda: at.drivers.has_reported(NAME))
        assert len(driver.suspends) == 2


async def test_an_attempt_that_still_lives_is_ended_before_it_is_forgotten(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        driver = at.backend.drivers[NAME]
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        at.drivers.forget(NAME, SENT.attempt)
        await until(lambda: driver.attempts[SENT.attempt].phase == "ended")
        assert [attempt.phase for _, attempt in at.drivers.carried()] in (["running"], ["ended"])


async def test_a_cluster_that_is_shut_down_is_told_and_its_watches_end(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        watch = at.watch()
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        at.drivers.shut_down(NAME)
        await until(lambda: not at.backend.drivers[NAME].is_alive)
        await at.backend.delete(NAME)
        assert isinstance(await watch, Lost)


async def test_it_is_said_whether_a_dead_driver_was_taken_away(tmp_path: Path) -> None:
    async with setting(tmp_path, hangs) as at:
        at.drivers.send(NAME, order())
        watch = at.watch()
        await until(lambda: SENT.attempt in at.drivers.view(NAME).seen)
        at.backend.fates[NAME] = "taken"
        await at.backend.kill(NAME, "evicted")
        outcome = await watch
        assert isinstance(outcome, Lost)
        assert outcome.was_taken
