"""
How large each group of workers is to be. Loaded with `--preload`; it looks every second, and when a worker comes.

Whoever dials gets a line of JSON whenever it changed: for each group how many workers it is to have, how many are at work,
and which are retired. A retired worker stays connected, takes no tasks and holds nothing that only it has, until somebody ends
its process: closed from here, its container would be started again. Nothing is done by order, so the port needs no password.
"""

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import click
from distributed import Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from flowgroup.driver.frozen import Frozen
from flowgroup.driver.wanted import Group, Load, Worker, group_of, groups_of, may_go, plain, wanted

_logger = logging.getLogger("distributed.scheduler")
_LOOK_S = 1.0
_SAMPLE = 2000  # tasks that wait and are looked at; there may be a hundred thousand
_UNKNOWN_S = 0.5
_AGAIN_S = 30.0
_SAID_EVERY_S = 5.0
_kept: list[Any] = []  # the loop itself keeps no hold of its tasks


@dataclass
class Scaling:
    """`target_s`: in about which time what may run is to be done; `idle_s`: how long a worker that may go has been idle."""

    scheduler: Scheduler
    groups: list[Group]
    target_s: float
    idle_s: float
    _idle_since: dict[str, float] = field(default_factory=dict)
    _wanted: deque[tuple[float, dict[str, int]]] = field(default_factory=deque)
    _retired: set[str] = field(default_factory=set)
    _not_before: dict[str, float] = field(default_factory=dict)
    _retiring: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    level: dict[str, Any] = field(default_factory=dict)

    async def run(self) -> None:
        """Without end. Where this Dask is not as it is known to be, nothing is told, and so nothing changes."""
        self.scheduler.add_plugin(_Coming(self._came.set), name="flowgroup-scaling")
        while True:
            try:
                self.look()
            except Exception:  # Dask's inside may be another in another version: whatever comes, the scheduler lives
                _logger.exception("flowgroup cannot see what this scheduler has to do")
                self.level = {}
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._came.wait()
            self._came.clear()

    def look(self) -> None:
        """One look: what is wanted, and who begins to go."""
        now = monotonic()
        self._forget()
        workers = self._workers(now)
        counts = self._steady(now, wanted(self.groups, self._loads(), workers, target_s=self.target_s))
        holds = any(ws.has_what for ws in self.scheduler.workers.values())
        keeper = plain(self.groups)
        for group in self.groups:
            if group.least < group.most:
                keeps_last = holds and group is keeper
                going = may_go(group, counts[group.name], workers, idle_s=self.idle_s, keeps_last=keeps_last)
                self._begin([address for address in going if self._not_before.get(address, 0.0) <= now])
        self._flush(now)
        self._tell(counts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The level, whenever it changed and every few seconds, until whoever listens hangs up."""
        hung_up = asyncio.create_task(reader.read(1))
        with suppress(OSError):
            while not hung_up.done():
                writer.write(json.dumps(self.level).encode() + b"\n")
                await writer.drain()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([changed, hung_up], timeout=_SAID_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        hung_up.cancel()
        writer.close()

    def _workers(self, now: float) -> list[Worker]:
        found = []
        for address, ws in self.scheduler.workers.items():
            group = group_of(str(ws.name), self.groups)
            if group is None or ws.status not in (Status.running, Status.paused):
                continue
            if ws.processing or ws.actors or ws.status is Status.paused:
                self._idle_since.pop(address, None)
                idle_s = None
            else:
                idle_s = now - self._idle_since.setdefault(address, now)
            found.append(Worker(address, group, idle_s, ws.nbytes, ws.memory_limit or 0))
        return found

    def _loads(self) -> list[Load]:
        """What may run now. How long a task takes is what such tasks took, or how long the longest of them runs already."""
        running: dict[Any, float] = {}
        tasks: list[tuple[Any, float]] = []
        for ws in self.scheduler.workers.values():
            tasks += [(ts, 1.0) for ts in islice(ws.processing, _SAMPLE)]
            for ts, elapsed_s in ws.executing.items():
                running[ts.prefix] = max(running.get(ts.prefix, 0.0), elapsed_s)
        for waiting in (self.scheduler.queued, self.scheduler.unrunnable):
            weight = max(1.0, len(waiting) / _SAMPLE)
            tasks += [(ts, weight) for ts in islice(iter(waiting), _SAMPLE)]
        sums: dict[tuple[tuple[str, float], ...], list[float]] = {}
        for ts, weight in tasks:
            took_s = ts.prefix.duration_average
            each_s = max(took_s if took_s >= 0 else _UNKNOWN_S, running.get(ts.prefix, 0.0))
            needs = tuple(sorted((ts.resource_restrictions or {}).items()))
            total = sums.setdefault(needs, [0.0, 0.0])
            total[0] += weight
            total[1] += weight * each_s
        return [Load(needs, count, seconds) for needs, (count, seconds) in sums.items()]

    def _steady(self, now: float, counts: dict[str, int]) -> dict[str, int]:
        """Up at once, down only to what was enough for `idle_s`: a worker takes longer to come than most tasks to run."""
        self._wanted.append((now, counts))
        while self._wanted and now - self._wanted[0][0] > self.idle_s:
            self._wanted.popleft()
        return {name: max(one[name] for _, one in self._wanted) for name in counts}

    def _begin(self, addresses: list[str]) -> None:
        for address in addresses:
            if address not in self._retiring:
                self._retired.discard(address)
                name = f"flowgroup retires {address}"
                self._retiring[address] = asyncio.create_task(self._retire(address), name=name)

    async def _retire(self, address: str) -> None:
        """Its data go elsewhere. Where that cannot be it goes on working, and is asked again later."""
        try:
            done = await self.scheduler.retire_workers(workers=[address], close_workers=False, remove=False)
            if address in done:
                self._retired.add(address)
            elif address in self.scheduler.workers:
                self._not_before[address] = monotonic() + _AGAIN_S
        finally:
            self._retiring.pop(address, None)

    def _flush(self, now: float) -> None:
        """A task that was on its way when a worker was retired left its result there: that is moved too."""
        for address in list(self._retired):
            ws = self.scheduler.workers[address]
            if not ws.processing and _holds_alone(ws) and self._not_before.get(address, 0.0) <= now:
                self._begin([address])

    def _forget(self) -> None:
        there = self.scheduler.workers
        self._retired = {one for one in self._retired if one in there and there[one].status is not Status.running}
        self._idle_since = {one: at for one, at in self._idle_since.items() if one in there}
        self._not_before = {one: at for one, at in self._not_before.items() if one in there}

    def _tell(self, counts: dict[str, int]) -> None:
        there: dict[str, int] = dict.fromkeys(counts, 0)
        gone: dict[str, list[str]] = {name: [] for name in counts}
        for address, ws in self.scheduler.workers.items():
            group = group_of(str(ws.name), self.groups)
            if group is not None and address in self._retired:
                if not ws.processing and not _holds_alone(ws):
                    gone[group].append(str(ws.name))
            elif group is not None:
                there[group] += 1
        level = {name: {"wanted": counts[name], "there": there[name], "retired": sorted(gone[name])} for name in counts}
        is_new = level != {name: {key: said[key] for key in level[name]} for name, said in self.level.items()}
        self.level = {name: {**said, **self._used(name)} for name, said in level.items()}
        if is_new:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _used(self, name: str) -> dict[str, Any]:
        """What the group's workers use, by their last heartbeats. It changes always, so it is told with what else is told."""
        said = [ws.metrics for ws in self.scheduler.workers.values() if group_of(str(ws.name), self.groups) == name]
        cores = sum(float(one.get("cpu", 0.0)) for one in said) / 100
        return {"cores": round(cores, 3), "memory_bytes": sum(int(one.get("memory", 0)) for one in said)}


class _Coming(SchedulerPlugin):
    """Tells when a worker has come."""

    def __init__(self, came: Callable[[], None]) -> None:
        self._came = came

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._came()


def _write(file: str, text: str) -> None:
    half = Path(f"{file}.half")
    half.write_text(text)
    half.replace(file)


def _holds_alone(ws: Any) -> bool:
    return any(len(ts.who_has) == 1 for ts in ws.has_what)


@click.command()
@click.option("--flowgroup-groups", "groups", required=True, help="JSON: what each group of workers is")
@click.option("--flowgroup-levels", "at", required=True, help="HOST:PORT to tell it at")
@click.option("--flowgroup-written", "written", default="", help="a file to write the port to")
@click.option("--flowgroup-target-s", "target_s", type=float, default=5.0)
@click.option("--flowgroup-idle-s", "idle_s", type=float, default=math.inf)
async def dask_setup(scheduler: Scheduler, groups: str, at: str, written: str, target_s: float, idle_s: float) -> None:
    """Dask calls this when the scheduler has started."""
    scaling = Scaling(scheduler, groups_of(groups), target_s, idle_s)
    host, _, port = at.rpartition(":")
    server = await asyncio.start_server(scaling.serve, host, int(port))
    if written:
        _write(written, str(server.sockets[0].getsockname()[1]))
    thawing = asyncio.create_task(Frozen(scheduler).run(), name="flowgroup-frozen")
    _kept.append((asyncio.create_task(scaling.run(), name="flowgroup-scaling"), server, thawing))
