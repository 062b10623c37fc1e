"""
Daemons that die, over a world that lives on: Prefect's API, a relay, clusters with drivers. All in virtual time.

The daemon is the real one, as `daemon.main` builds it. The ledger says which attempts have run user code: it is written by
the children themselves, and no record of ours is asked.
"""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from flowgroup.daemon import main, points
from flowgroup.daemon.points import Point
from flowgroup.daemon.process import until_stopped
from flowgroup.daemon.there import clusters_there
from flowgroup.edge.fence import Fence
from flowgroup.edge.pools import Pool
from flowgroup.edge.prefect import Prefect
from flowgroup.health import Health
from flowgroup.model.ids import AttemptId
from flowgroup.model.orders import Exit, Order
from flowgroup.settings import DaemonSettings, DriverSettings, PrefectSettings, RelaySettings, Settings
from tests.fakes.backend import FakeBackend
from tests.fakes.clock import BEGAN, now
from tests.fakes.prefect_api import TERMINAL, FakePrefect
from tests.fakes.reach import BackendHand, MemoryRelay, MemoryWire, Reach, RelayHand

_KEPT = ("owner", "attempts.json")
_LIFE: ContextVar["Life"] = ContextVar("life")


@dataclass(frozen=True)
class Begun:
    """User code that began to run."""

    run: str
    attempt: AttemptId
    at_s: float


@dataclass
class Life:
    """One daemon from its start to its death. `dies_at` ends it when it is there for the `passes`th time."""

    home: Path
    reach: Reach
    relays: RelayHand
    parts: main._Parts | None = None
    task: "asyncio.Task[None] | None" = None
    dies_at: Point | None = None
    passes: int = 1
    is_dead: bool = False
    left: dict[str, str] = field(default_factory=dict)

    def die(self) -> None:
        """As `kill -9` would: from now on nothing reaches anybody, and its files are as they are."""
        if self.is_dead:
            return
        self.is_dead = self.reach.is_cut = True
        folder = self.home / "pool"
        self.left = {name: (folder / name).read_text() for name in _KEPT if (folder / name).exists()}
        if self.parts:
            for writer in self.parts.drivers._writers:
                writer.transport.abort()
        assert self.task is not None
        self.task.cancel()

    def pass_by(self, point: Point) -> None:
        if point != self.dies_at or self.is_dead:
            return
        self.passes -= 1
        if self.passes <= 0:
            self.die()
            raise asyncio.CancelledError


def _at(point: Point) -> None:
    if life := _LIFE.get(None):
        life.pass_by(point)


@dataclass
class Scene:
    """`folder` is short and empty: Unix sockets lie in it. `settings` are the daemon's."""

    folder: Path
    chance: random.Random
    settings: dict[str, Any] = field(default_factory=dict)
    fake: FakePrefect = field(default_factory=lambda: FakePrefect(now=now))
    relay: MemoryRelay = field(default_factory=MemoryRelay)
    ledger: list[Begun] = field(default_factory=list)
    takes_s: dict[str, float] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    dies_by: dict[str, Exit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend = FakeBackend(self.folder / "d.sock", self._child, interval_s=2.0, again_s=0.5)
        self.fake._create_pool({"name": "pool", "type": "dask", "base_job_template": {}})

    # The daemon

    @property
    def life(self) -> Life | None:
        """The daemon that lives."""
        return self.lives[-1] if self.lives and not self.lives[-1].is_dead else None

    def start(self, *, is_home_lost: bool = False) -> Life:
        """Start a daemon where the last one died. Only one with a name knows its runs again without its home."""
        assert self.life is None
        home = self.folder / str(len(self.lives))
        (home / "pool").mkdir(parents=True)
        for name, text in self.lives[-1].left.items() if self.lives and not is_home_lost else ():
            (home / "pool" / name).write_text(text)
        reach = Reach(self.chance)
        life = Life(home, reach, RelayHand(self.relay, reach))
        self.lives.append(life)
        life.task = asyncio.create_task(self._live(life), name=f"daemon {home.name}")
        return life

    async def _live(self, life: Life) -> None:
        _LIFE.set(life)
        daemon = DaemonSettings(home=life.home, pool="pool", events=False, name="agent", **self.settings)
        settings = Settings(
            PrefectSettings(api_url="http://prefect.test/api"), daemon, RelaySettings(), DriverSettings()
        )
        api = Prefect(MemoryWire(self.fake, life.reach), "pool")  # type: ignore[arg-type]
        pool = Pool(self.fake.pools["pool"]["id"], "pool", {})
        hand = BackendHand(self.backend, life.reach)
        parts = life.parts = main._built(main._Place(settings, api, hand, life.home / "pool", Fence()), pool)
        await clusters_there(parts.clusters)
        async with parts.drivers.serve(self.backend.listen, parts.clusters.secret_of):
            await until_stopped(asyncio.Event(), main._loops(parts, settings, api, "agent", Health(), page=None))

    # What a child does

    async def _child(self, order: Order, running: Callable[[], None]) -> Exit:
        await asyncio.sleep(self.chance.uniform(0.01, 0.3))
        if not await self._says(order, "RUNNING"):
            return Exit(code=1, tail="the API aborted the run")
        self.ledger.append(Begun(order.run_id, order.attempt, asyncio.get_running_loop().time()))
        running()
        await asyncio.sleep(self.takes_s.get(order.run_id, 1.0))
        if exit_ := self.dies_by.get(order.run_id):
            return exit_
        return Exit(code=0, reached_user_code=True, reported=await self._says(order, "COMPLETED"))

    async def _says(self, order: Order, state: str) -> bool:
        """Through the relay, as Prefect's engine does: it waits for a relay or an API that is away."""
        hashed = hashlib.sha256(order.token.encode()).hexdigest()
        if not await self.relay.takes(order.attempt, hashed):
            return False
        await asyncio.sleep(self.chance.random() * 0.02)
        _, answer = self.fake._set_state(order.run_id, {"type": state})
        return bool(answer.get("status") == "ACCEPT")

    # The verdict

    def begins(self) -> Counter[str]:
        """How often each run's user code began."""
        return Counter(begun.run for begun in self.ledger)

    def due_s(self, run: str) -> float:
        due = datetime.fromisoformat(self.fake.runs[run]["expected_start_time"])
        return (due - BEGAN).total_seconds()

    @staticmethod
    def now_s() -> float:
        return asyncio.get_running_loop().time()

    def tale(self) -> str:
        """What happened, for whoever reads a failure."""
        runs = {
            run: [(state["name"], state["timestamp"][17:]) for state in told] for run, told in self.fake.history.items()
        }
        lives = [(life.dies_at, life.is_dead, sorted(life.left)) for life in self.lives]
        return (
            f"runs {runs}\nledger {self.ledger}\nlives {lives}\nkept {self.kept() if self.life else None}\nnow {now()}"
        )

    def is_over(self) -> bool:
        return all(run["state"]["type"] in TERMINAL for run in self.fake.runs.values())

    def kept(self) -> dict[str, Any]:
        """What is held, by whom, though every run has ended: all of it should be empty."""
        life = self.life
        if life is None or life.parts is None:
            return {"daemon": "it is not there"}
        held = {
            "slots": set(life.parts.slots.held),
            "attempts": {one.attempt for one in life.parts.attempts.listed()},
            "relay": set(self.relay.open),
            "drivers": {name for one in self.backend.drivers.values() if one.is_alive for name in one.attempts},
            "leases": dict(self.fake.leases),
            "under way": set(life.parts.cancels.under_way),
        }
        return {name: what for name, what in held.items() if what}

    async def until(self, is_so: Callable[[], bool], timeout_s: float, step_s: float = 0.25) -> bool:
        """Whether it became so in time. A daemon that ended by itself is an error."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not is_so():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await self.wait(step_s)
        return True

    async def wait(self, span_s: float) -> None:
        await asyncio.sleep(span_s)
        if self.life and self.life.task and self.life.task.done():
            self.life.task.result()
            raise AssertionError("the daemon ended")

    async def aclose(self) -> None:
        for life in self.lives:
            life.die()
        tasks = [life.task for life in self.lives if life.task]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.backend.aclose()


def _relays(*_: Any) -> RelayHand:
    return _LIFE.get().relays


@contextlib.contextmanager
def mortal() -> Iterator[None]:
    """During the block daemons die at their points, and reach the relay of their scene."""
    quiet = structlog.make_filtering_bound_logger(50)
    with (
        mock.patch.object(points, "at", _at),
        mock.patch.object(main, "_relays", _relays),
        mock.patch("flowgroup.log.get", lambda: quiet(None, [], {})),  # type: ignore[call-arg]  # its type hides how it is made
    ):
        yield
