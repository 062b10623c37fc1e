"""The driver's desk, as a process."""

import asyncio
import os
import platform
import signal
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from flowgroup import log
from flowgroup.driver import levels, oskit, scheduler, start_script, versions
from flowgroup.driver.brief import shared_environment
from flowgroup.driver.desk import Desk
from flowgroup.driver.forks import Forks, zygote
from flowgroup.driver.gate import serving
from flowgroup.driver.line import Line
from flowgroup.driver.losses import SCHEDULER
from flowgroup.driver.outbox import Outbox
from flowgroup.driver.preface import Preface
from flowgroup.driver.spawns import Spawns, spawning
from flowgroup.driver.start_script import StartScriptFailed
from flowgroup.driver.templates import Templates
from flowgroup.driver.usage import Usage
from flowgroup.edge import forward, tls
from flowgroup.errors import FlowgroupError, Permanent
from flowgroup.model.causes import said
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import Cancel, Forget, Hello, Losses, Order, Shutdown, Status, Suspend
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import (
    Settings,
    environment_for_user_code,
    environment_for_zygote,
)
from flowgroup.watchdog import watched

_log = log.get()
_MARGIN_S = 1.5  # an answer that the relay has must not be missed; with it nobody is held for 10 s
# How long a scheduler may take no connections before it counts as gone: a network has hiccups, one host has none.
_ON_THIS_HOST_S = 0.5
_ON_ANOTHER_HOST_S = 8.0
_WHY_S = 2.0  # who waits for its runs' ends gets them in ten seconds


@dataclass(frozen=True)
class Place:
    """
    Where a driver finds what belongs to its cluster, and what it says hello with.

    `scheduler` is the Dask scheduler's address; None: it is in the file that it writes. `levels` is where it tells how large
    the groups of workers are to be, in the same way.
    """

    cluster: ClusterName
    spec: ClusterSpec
    folder: Path
    daemon: Endpoint
    relay: Endpoint
    storage: Path
    secret: str = field(repr=False)
    scheduler: str | None = None
    levels: str | None = None


@dataclass
class Stand:
    """How the driver stands before it has a desk, and after: what the line tells."""

    desk: Desk | None = None
    trouble: str | None = None
    start_log: tuple[str, ...] = ()
    groups: levels.Levels = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def status(self) -> Status:
        status = self.desk.status() if self.desk else Status(ready=False)
        trouble = {"ready": False, "trouble": self.trouble, "start_log": self.start_log} if self.trouble else {}
        used = {"cpu_s": self.usage.cpu_s, "memory_bytes": self.usage.memory_bytes}
        return status.model_copy(update={"groups": self.groups, **used, **trouble})

    def resize(self, groups: levels.Levels) -> None:
        """The groups of workers are to be of these sizes."""
        if groups != self.groups:
            self.groups = groups
            self.changed.set()

    def fail(self, trouble: str, start_log: tuple[str, ...] = ()) -> None:
        """No new run will ever be ready here. What runs goes on, and is told."""
        self.trouble, self.start_log = trouble, start_log
        _log.error("driver_not_usable", reason=trouble)
        self.changed.set()

    def hear(self, order: Order | Cancel | Suspend | Forget | Losses | Shutdown) -> None:
        if isinstance(order, Shutdown):
            self.over.set()
        elif self.desk is None:
            _log.warning("order_too_early", order=order.type)
        elif isinstance(order, Order):
            self.desk.take(order)
        elif isinstance(order, Cancel):
            self.desk.cancel(order)
        elif isinstance(order, Suspend):
            self.desk.suspend(order)
        elif isinstance(order, Losses):
            self.desk.losses.hear(order)
        else:
            self.desk.forget(order)


async def run(settings: Settings, place: Place) -> None:
    """
    The desk, until the daemon says Shutdown or a signal comes. All children end with it.

    Raises Refused when what it needs in order to dial the daemon cannot be read: nobody else can be told then.
    """
    for needed in (place.daemon, place.relay):
        tls.checked(needed)
    oskit.adopt_orphans()
    stand = Stand()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stand.over.set)
    hello = Hello(
        cluster=place.cluster,
        secret=place.secret,
        python=".".join(platform.python_version_tuple()[:2]),
        prefect=version("prefect"),
        pid=os.getpid(),
    )
    line = Line(hello, stand.status, stand.hear, stand.changed)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(line.keep(place.daemon, interval_s=settings.driver.status_interval_s), name="line")
        working = tasks.create_task(_work(settings, place, stand), name="work")
        measuring = tasks.create_task(stand.usage.keep(), name="usage")
        with watched(asyncio.get_running_loop()):
            await stand.over.wait()
        for task in (working, keeping, measuring):
            task.cancel()


async def _work(settings: Settings, place: Place, stand: Stand) -> None:
    """Get ready, then carry out orders. What keeps it from ever being ready is told to the daemon, and it waits to be ended."""
    env = {**environment_for_user_code(), **place.spec.env, "PREFECT_HOME": str(place.folder / "prefect")}
    env |= environment_for_zygote(settings.driver)
    try:
        async with AsyncExitStack() as stack:
            script_lines = await start_script.run(place.spec.start_script, place.folder, env)
            api_url = await stack.enter_async_context(serving(place.relay, hold_s=settings.relay.hold_s + _MARGIN_S))
            shared = shared_environment(api_url, str(place.storage))
            forks = await stack.enter_async_context(_children(settings, {**env, **shared}))
            outbox = Outbox(await stack.enter_async_context(forward.client(at=place.relay)), place.relay)
            address = await _scheduler(place, forks) if place.spec.has_workers else None
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stand.desk = Desk(
                forks=forks,
                folder=place.folder,
                api_url=api_url,
                storage=str(place.storage),
                scheduler=address,
                output_limit_bytes=settings.driver.output_limit_bytes,
                outbox=outbox,
                tasks=tasks,
                changed=stand.changed,
                lean=settings.driver.lean,
                preface=Preface(script_lines),
            )
            tasks.create_task(outbox.run(), name="outbox")
            if settings.driver.templates and isinstance(forks, Forks) and oskit.shows_threads():
                stand.desk.templates = templates = Templates(forks, place.folder / "templates", tasks)
                tasks.create_task(templates.keep(), name="templates")
            stand.changed.set()
            if address:
                tasks.create_task(_watch_scheduler(stand, stand.desk, address, place), name="scheduler")
                at = place.levels or str(place.folder / "levels")
                tasks.create_task(levels.follow(at, stand.resize), name="levels")
            await forks.listen()
            stand.fail(said("zygote-died"))
            await stand.over.wait()
    except StartScriptFailed as exc:
        stand.fail(str(exc), exc.lines)
    except FlowgroupError as exc:
        stand.fail(str(exc))


async def _scheduler(place: Place, forks: Forks | Spawns) -> str:
    """
    The scheduler's address, once it answers there. On another host its image may be another one: raises Permanent when
    what is exchanged differs in its version.
    """
    if place.scheduler is None:
        return await scheduler.written(place.folder / "scheduler.json")
    await scheduler.answering(place.scheduler)
    listening = asyncio.create_task(forks.listen(), name="listen")
    try:
        waits = any(numbers.first for numbers in place.spec.groups)
        if waits and place.levels:
            await levels.first_worker(place.levels)
        difference = await versions.difference(forks, place.scheduler, place.folder, waits=waits)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    if difference:
        raise Permanent(difference)
    return place.scheduler


def _children(settings: Settings, env: dict[str, str]) -> AbstractAsyncContextManager[Forks | Spawns]:
    if settings.driver.start_method == "fork":
        return zygote(env)
    _log.warning("children_are_spawned", note="each run starts some seconds slower than with fork")
    return spawning(env)


async def _watch_scheduler(stand: Stand, desk: Desk, address: str, place: Place) -> None:
    await scheduler.gone(address, after_s=_ON_ANOTHER_HOST_S if place.scheduler else _ON_THIS_HOST_S)
    why = await desk.losses.why(SCHEDULER, _WHY_S)
    cause = said("scheduler-died", address=address, why=f": {why}" if why else "")
    stand.fail(cause)
    desk.end_all(cause)
