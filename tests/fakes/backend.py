"""
A backend whose clusters are drivers in this process, on a real Unix socket.

A driver does with each order what `engine` says. It can be killed, started again, made deaf, and told never to be ready.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowgroup.errors import FlowgroupError
from flowgroup.model.clusters import Ask, Fate, Found, Takes
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import FIRST_RELAY, AttemptId, ClusterName, RelayName
from flowgroup.model.orders import (
    Attempt,
    Cancel,
    Exit,
    Forget,
    Hello,
    Losses,
    Order,
    Remark,
    Shutdown,
    Status,
    Suspend,
    encode,
    read_order,
)
from flowgroup.model.spec import ClusterSpec

Engine = Callable[[Order, Callable[[], None]], Awaitable[Exit]]


async def completes(order: Order, running: Callable[[], None]) -> Exit:
    """A child that runs at once and reports its end."""
    running()
    return Exit(code=0, reached_user_code=True, reported=True)


@dataclass
class FakeDriver:
    """
    One driver process. `attempts` is what its status says, every `interval_s`; a daemon that is silent for `silent_s` is left,
    as on another host.
    """

    cluster: ClusterName
    secret: str
    socket: Path
    engine: Engine
    pid: int
    ready_after_s: float = 0.0
    trouble: str | None = None
    interval_s: float = 0.2
    again_s: float = 0.05
    silent_s: float | None = None
    orders: list[Order] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    suspends: list[Suspend] = field(default_factory=list)
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    is_alive: bool = True
    is_deaf: bool = False
    _children: dict[AttemptId, asyncio.Task[None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Dial, again and again, until killed."""
        began = asyncio.get_running_loop().time()
        try:
            while self.is_alive:
                with contextlib.suppress(OSError, EOFError):
                    reader, writer = await self.dial()
                    self._writer = writer
                    await self._talk(reader, writer, began)
                await asyncio.sleep(self.again_s)
        finally:
            self.is_alive = False
            for child in self._children.values():
                child.cancel()
            await asyncio.gather(*self._children.values(), return_exceptions=True)
            if self._writer:
                self._writer.close()

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.socket))

    def hang_up(self) -> None:
        """Lose the connection; the driver dials again."""
        if self._writer:
            self._writer.close()

    def change(self, attempt: Attempt) -> None:
        self.attempts[attempt.attempt] = attempt
        self._changed.set()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: float) -> None:
        writer.write(
            encode(Hello(cluster=self.cluster, secret=self.secret, python="3.11", prefect="3.8.8", pid=self.pid))
        )
        telling = asyncio.create_task(self._tell(writer, began))
        try:
            while line := await asyncio.wait_for(reader.readline(), self.silent_s):
                self._hear(read_order(line))
        finally:
            telling.cancel()
            writer.close()

    async def _tell(self, writer: asyncio.StreamWriter, began: float) -> None:
        while True:
            self._changed.clear()
            is_ready = asyncio.get_running_loop().time() - began >= self.ready_after_s and not self.trouble
            seals = tuple(order.seal for order in self.orders if order.attempt in self.attempts)
            status = Status(ready=is_ready, trouble=self.trouble, attempts=tuple(self.attempts.values()), seals=seals)
            if not self.is_deaf:
                writer.write(encode(status))
                with contextlib.suppress(ConnectionError):  # whoever reads notices, and dials again
                    await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self.interval_s)

    def _hear(self, frame: Order | Cancel | Suspend | Forget | Losses | Shutdown) -> None:
        match frame:
            case Order() if not self.is_deaf:
                self._begin(frame)
            case Cancel():
                self.cancels.append(frame)
                if child := self._children.get(frame.attempt):
                    child.cancel()
            case Suspend():
                self.suspends.append(frame)
            case Forget():
                for attempt in frame.attempts:
                    self.attempts.pop(attempt, None)
            case Shutdown():
                self.is_alive = False

    def _begin(self, order: Order) -> None:
        self.orders.append(order)
        if order.attempt not in self.attempts:
            self.change(Attempt(run_id=order.run_id, attempt=order.attempt, phase="starting"))
            self._children[order.attempt] = asyncio.create_task(self._child(order))

    async def _child(self, order: Order) -> None:
        def running() -> None:
            self.change(Attempt(run_id=order.run_id, attempt=order.attempt, phase="running"))

        try:
            exit_ = await self.engine(order, running)
        except asyncio.CancelledError:
            exit_ = Exit(signal=9, reached_user_code=True)
        self.change(Attempt(run_id=order.run_id, attempt=order.attempt, phase="ended", exit=exit_))


@dataclass
class FakeBackend:
    """
    `dies_at_start`: why every driver that is made ends at once; `fail`: what the next call of a name raises. A relay's
    name is its socket's path.
    """

    socket: Path
    engine: Engine = completes
    python: str | None = "3.11"
    relay_key: str = "key"
    relays: tuple[RelayName, ...] = (FIRST_RELAY,)
    ready_after_s: float = 0.0
    silent_s: float | None = None
    trouble: str | None = None
    interval_s: float = 0.2
    again_s: float = 0.05
    dies_at_start: str | None = None
    waits_for: str | None = None
    renew_every_s: float | None = None
    renewed: list[list[ClusterName]] = field(default_factory=list)
    asked: dict[ClusterName, Ask] = field(default_factory=dict)
    told: tuple[Remark, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)
    relay_socket: Path = Path("/nonexistent")
    fail: dict[str, FlowgroupError] = field(default_factory=dict)
    clusters: dict[ClusterName, Found] = field(default_factory=dict)
    drivers: dict[ClusterName, FakeDriver] = field(default_factory=dict)
    dead: dict[ClusterName, str] = field(default_factory=dict)
    fates: dict[ClusterName, Fate] = field(default_factory=dict)
    made: list[ClusterName] = field(default_factory=list)
    deleted: list[ClusterName] = field(default_factory=list)
    scaled: list[tuple[ClusterName, str, int, tuple[str, ...]]] = field(default_factory=list)
    is_scaled: bool = True
    _tasks: dict[ClusterName, asyncio.Task[None]] = field(default_factory=dict)
    _pids: int = 1000

    def gpus(self, spec: ClusterSpec) -> dict[str, int]:
        return {}

    def takes(self, spec: ClusterSpec) -> Takes:
        return Takes(pods=1 + spec.workers, cpu=1.0 + spec.workers * spec.worker_threads)

    async def find(self) -> list[Found]:
        await self._step("find")
        return list(self.clusters.values())

    async def create(self, spec: ClusterSpec) -> Found:
        await self._step("create")
        if spec.name not in self.clusters:
            self.made.append(spec.name)
            self.clusters[spec.name] = Found(spec.name, spec, f"secret of {spec.name}")
            self.start(spec.name)
        return self.clusters[spec.name]

    def start(self, name: ClusterName) -> FakeDriver:
        """Start a driver process for a cluster: the first, or one after a kill."""
        self.dead.pop(name, None)
        self._pids += 1
        driver = FakeDriver(
            cluster=name,
            secret=self.clusters[name].secret,
            socket=self.socket,
            engine=self.engine,
            pid=self._pids,
            ready_after_s=self.ready_after_s,
            trouble=self.trouble,
            interval_s=self.interval_s,
            again_s=self.again_s,
            silent_s=self.silent_s,
        )
        self.drivers[name] = driver
        if self.dies_at_start:
            self.dead[name] = self.dies_at_start
        else:
            self._tasks[name] = asyncio.create_task(driver.run())
        return driver

    async def kill(self, name: ClusterName, reason: str = "killed") -> None:
        """End a driver's process at once, its children with it."""
        self.dead[name] = reason
        task = self._tasks.pop(name, None)
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def delete(self, name: ClusterName) -> None:
        await self._step("delete")
        self.deleted.append(name)
        await self.kill(name, "deleted")
        self.clusters.pop(name, None)
        self.dead.pop(name, None)

    async def scale(self, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> bool:
        self.scaled.append((name, group, wanted, retired))
        await self._step("scale")
        return self.is_scaled

    async def look(self, name: ClusterName) -> str | None:
        if name not in self.clusters:
            return "it is not there"
        driver = self.drivers.get(name)
        return self.dead.get(name) or (None if driver is None or driver.is_alive else "its driver has ended")

    async def fate(self, name: ClusterName) -> Fate:
        return self.fates.get(name, "may-pass")

    async def why_never(self, name: ClusterName) -> str | None:
        return await self.look(name)

    async def why_waiting(self, name: ClusterName) -> str | None:
        return self.waits_for

    async def losses(self, name: ClusterName) -> dict[str, str]:
        await self._step("losses")
        return self.lost

    async def renew(self, names: Sequence[ClusterName]) -> None:
        await self._step("renew")
        self.renewed.append(list(names))

    async def asks(self) -> dict[ClusterName, Ask]:
        return {name: ask for name, ask in self.asked.items() if name in self.clusters}

    async def remarks(self, spec: ClusterSpec) -> tuple[Remark, ...]:
        return self.told

    @property
    def listen(self) -> Path:
        return self.socket

    async def relay(self, name: RelayName) -> Endpoint:
        return Endpoint.at(Path(name) if name else self.relay_socket)

    async def aclose(self) -> None:
        for name in list(self._tasks):
            await self.kill(name)

    async def _step(self, name: str) -> None:
        await asyncio.sleep(0)
        if trouble := self.fail.pop(name, None):
            raise trouble
