"""
Several daemons that stand by for each other, over one world: Prefect's API, Kubernetes' Lease, a relay, drivers.

Each daemon is a process of its own with its own home and its own ways to the world, which can be cut. Everything that a daemon
changes anywhere is noted with its name and the time, and so is what drivers execute.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from flowgroup.daemon.main import take_turns
from flowgroup.edge.fence import Fence
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.leader import LeaseSeat
from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import Exit, Order
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import DaemonSettings, DriverSettings, PrefectSettings, RelaySettings, Settings
from tests.fakes.backend import FakeBackend
from tests.fakes.kubernetes import FakeKubernetes, Way
from tests.fakes.prefect_api import FakePrefect
from tests.fakes.processes import Process, processes
from tests.fakes.relay import FakeRelay

CHANGES = re.compile(r"set_state|/logs/|workers/")
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def now() -> float:
    return asyncio.get_running_loop().time()


class Service:
    """The address that drivers dial: each time it leads to the next daemon, whether that one leads or not."""

    def __init__(self, *sockets: Path) -> None:
        self._next = cycle(sockets)

    def __str__(self) -> str:
        return str(next(self._next))


@dataclass
class ToPrefect(httpx.AsyncBaseTransport):
    """One daemon's way to Prefect's API."""

    daemon: "Daemon"
    inner: httpx.ASGITransport
    is_cut: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_cut:
            raise httpx.ConnectError("no route to host")
        if CHANGES.search(request.url.path):
            self.daemon.acts(f"{request.method} {request.url.path}")
        return await self.inner.handle_async_request(request)


@dataclass
class Clusters:
    """The backend as one daemon has it. Its real client asks the fence before each call, and so does this."""

    daemon: "Daemon"
    backend: FakeBackend
    listen: Path
    python: str | None = "3.11"
    relay_key: str = "key"
    renew_every_s: float | None = 60.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def find(self) -> Any:
        self._reach()
        return await self.backend.find()

    async def create(self, spec: ClusterSpec) -> Any:
        self._reach(f"create {spec.name}")
        # Its driver is a process of its own: it must not be one with the daemon that made it.
        return await asyncio.create_task(self.backend.create(spec), context=Context())

    async def delete(self, name: ClusterName) -> None:
        self._reach(f"delete {name}")
        await self.backend.delete(name)

    async def renew(self, names: Sequence[ClusterName]) -> None:
        self._reach("renew")
        await self.backend.renew(names)

    async def look(self, name: ClusterName) -> str | None:
        return None if self.daemon.way.is_cut else await self.backend.look(name)

    async def why_never(self, name: ClusterName) -> str | None:
        return await self.look(name)

    def _reach(self, change: str = "") -> None:
        self.daemon.fence.check()
        if self.daemon.way.is_cut:
            raise Transient("Kubernetes' API does not answer")
        if change:
            self.daemon.acts(change)


@dataclass
class Daemon:
    """One daemon's process: `way` leads to Kubernetes, `prefect` to Prefect."""

    world: "World"
    name: str
    fence: Fence = field(default_factory=Fence)
    process: Process = field(default_factory=Process)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self.fence.close()
        self.way = Way(self.world.kubernetes)
        self.prefect = ToPrefect(self, httpx.ASGITransport(self.world.fake))
        self.home = self.world.folder / self.name

    @property
    def leads(self) -> bool:
        return self.fence.is_open

    def acts(self, what: str) -> None:
        self.world.acts.append((now(), self.name, what))

    def start(self) -> None:
        access = Access("https://k.test", _TLS, "fg", lambda: "", lambda: "")
        seat = LeaseSeat(Client(access, "fg", transport=self.way), "fg-daemon", self.fence, me=self.name)
        settings = Settings(
            PrefectSettings(api_url="http://127.0.0.1:9/api"),
            DaemonSettings(home=self.home, pool="pool", name="both", stand_by=True, events=False, prewarm_s=0.0),
            RelaySettings(),
            DriverSettings(),
        )

        def factory(_: Settings, folder: Path, __: Fence) -> Any:
            return Clusters(self, self.world.backend, folder / "daemon.sock")

        main = take_turns(settings, factory, self.stop, seat=seat, transport=self.prefect)
        self.task = self.process.start(main, self.name)

    async def end(self) -> None:
        """As SIGTERM does."""
        assert self.task is not None
        self.stop.set()
        await asyncio.wait((self.task,))

    async def kill(self) -> None:
        """As kill -9 does: its connections end, and what it would say on its way out reaches nobody."""
        self.way.is_cut = self.prefect.is_cut = True
        self.fence.close()
        self.process.go_on()
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait((self.task,))


@dataclass
class World:
    """`ledger` has each execution; `cut_off` attempts whose child found the relay closed while it ran."""

    folder: Path
    fake: FakePrefect = field(default_factory=FakePrefect)
    kubernetes: FakeKubernetes = field(default_factory=FakeKubernetes)
    relay: FakeRelay = field(default_factory=FakeRelay)
    ledger: list[tuple[str, str]] = field(default_factory=list)
    acts: list[tuple[float, str, str]] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    daemons: list[Daemon] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("a", "b")
        service: Any = Service(*(self.folder / name / "pool" / "daemon.sock" for name in names))
        self.backend = FakeBackend(
            service, self.engine, relay_socket=self.folder / "relay.sock", interval_s=1.0, silent_s=10.0
        )
        self.daemons = [Daemon(self, name) for name in names]

    async def engine(self, order: Order, running: Callable[[], None]) -> Exit:
        """A child, which speaks through the relay for as many seconds as its run's name says."""
        self.ledger.append((order.run_id, order.attempt))
        self.fake.put_state(order.run_id, "RUNNING")
        running()
        for _ in range(int(order.run_name)):
            await asyncio.sleep(1.0)
            if order.attempt not in self.relay.open:
                self.cut_off.append(order.attempt)
        self.fake.put_state(order.run_id, "COMPLETED")
        return Exit(code=0, reached_user_code=True, reported=True)

    @property
    def leader(self) -> Daemon | None:
        return next((one for one in self.daemons if one.leads), None)

    def other(self, daemon: Daemon) -> Daemon:
        return next(one for one in self.daemons if one is not daemon)

    def run(self, seconds: int) -> str:
        """A new run of one deployment, due now."""
        deployment = next(iter(self.fake.deployments), None) or self.fake.add_deployment()
        return self.fake.add_run(deployment, name=str(seconds))

    async def until(self, is_so: Callable[[], object], within_s: float) -> float:
        """Wait; for how many seconds it took."""
        began = now()
        async with asyncio.timeout(within_s):
            while not is_so():
                await asyncio.sleep(0.1)
        return now() - began

    async def completed(self, runs: Sequence[str], within_s: float = 60.0) -> None:
        await self.until(lambda: all(self.fake.states(run)[-1] == "COMPLETED" for run in runs), within_s)

    def acts_of(self, daemon: Daemon, since: float) -> list[str]:
        return [what for at, name, what in self.acts if name == daemon.name and at > since]

    async def watch(self) -> None:
        while True:
            if all(one.leads for one in self.daemons):
                self.both.append(now())
            await asyncio.sleep(0.1)

    def judge(self) -> None:
        """What must hold whatever happened."""
        attempts = [attempt for _, attempt in self.ledger]
        runs = [run for run, _ in self.ledger]
        assert len(attempts) == len(set(attempts)), "an attempt was executed twice"
        assert len(runs) == len(set(runs)), "a run was executed twice"
        assert self.both == [], "two daemons led at once"
        assert self.cut_off == [], "the relay was told that a running attempt is closed"
        for run, history in self.fake.history.items():
            types = [state["type"] for state in history]
            assert types.count("RUNNING") <= 1, (run, types)
            assert "CRASHED" not in types, (run, history[-1])


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Two daemons of which one leads. What must hold is judged at the end."""
    asyncio.get_running_loop().set_task_factory(processes)  # type: ignore[arg-type]  # coroutines alone
    made = World(folder)
    async with made.relay.serve(folder / "relay.sock"):
        watching = asyncio.create_task(made.watch())
        try:
            for daemon in made.daemons:
                daemon.start()
            await made.until(lambda: made.leader, 30.0)
            yield made
        finally:
            watching.cancel()
            for daemon in made.daemons:
                await daemon.kill()
            await asyncio.wait((watching,))
            await made.backend.aclose()
    made.judge()
