"""
The desk: carries orders out, one child each, and knows at any moment how every attempt stands.

In: Order, Cancel, Forget. Out: `status()`. Holds no token of the API and runs no user code.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flowgroup import log
from flowgroup.driver import losses, oskit
from flowgroup.driver.brief import Brief, environment
from flowgroup.driver.exits import exit_of
from flowgroup.driver.family import Family
from flowgroup.driver.forks import Fds
from flowgroup.driver.leash import CANCEL, SUSPEND
from flowgroup.driver.losses import Asking
from flowgroup.driver.outbox import Mailbag, Outbox
from flowgroup.driver.output import Output
from flowgroup.driver.preface import Preface
from flowgroup.edge.oom import Cgroup, Counters, Kills
from flowgroup.errors import Permanent
from flowgroup.model.causes import said
from flowgroup.model.ids import AttemptId
from flowgroup.model.orders import Attempt, Cancel, Exit, Forget, Order, Status, Suspend

_log = log.get()
_OUTPUTS_KEPT = 50
_LAST_WORDS_S = 1.0
_COMMIT_S = 1.0
_MEMORY_LOOK_S = 1.0
_DELIVERY_S = 600.0
_KILLED_S = 5.0
_UNKILLABLE = "The run's process was killed and does not end: it waits in the kernel, maybe for a network file system."


class Forks(Protocol):
    async def fork(self, attempt: str, order: str, folder: Path, fds: Fds) -> int: ...
    async def ended(self, pid: int) -> int: ...
    def forget(self, pid: int) -> None: ...


class Templates(Protocol):
    def forks_for(self, env: Mapping[str, str]) -> Forks: ...
    def learn(self, env: Mapping[str, str], note: Any) -> None: ...


@dataclass
class Carried:
    """One attempt while the desk has it."""

    order: Order
    pid: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    exit: Exit | None = None
    cancelled: bool = False
    leash: socket.socket | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)  # it has a pid, or will never have one
    answered: asyncio.Event = field(default_factory=asyncio.Event)  # the child has heard that it must end
    dead: asyncio.Event = field(default_factory=asyncio.Event)  # its process has ended: its pid may be another's now
    given_up: asyncio.Event = field(default_factory=asyncio.Event)  # it was killed, and the kernel does not let it go

    def now(self) -> Attempt:
        phase = "ended" if self.exit else self.notes.get("phase", "starting")
        return Attempt.model_validate(
            {"run_id": self.order.run_id, "attempt": self.order.attempt, "phase": phase, "exit": self.exit}
        )


@dataclass
class Desk:
    """`scheduler` is the Dask scheduler's address if the group has workers, `api_url` the gate's."""

    forks: Forks
    folder: Path
    api_url: str
    storage: str
    scheduler: str | None
    output_limit_bytes: int
    outbox: Outbox
    tasks: asyncio.TaskGroup
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    lean: bool = True
    templates: Templates | None = None
    preface: Preface = field(default_factory=Preface)
    kills: Kills = field(default_factory=lambda: Kills(Cgroup.of()))
    losses: Asking = field(init=False)
    _carried: dict[AttemptId, Carried] = field(default_factory=dict)
    _family: Family = field(init=False)

    def __post_init__(self) -> None:
        self._family = Family(self._living, lambda: any(not one.started.is_set() for one in self._carried.values()))
        self.losses = Asking(self.folder / losses.NAME, self.changed)

    def status(self) -> Status:
        all_of_them = self._carried.values()
        return Status(
            ready=True,
            asks=self.losses.asks,
            attempts=tuple(carried.now() for carried in all_of_them),
            seals=tuple(carried.order.seal for carried in all_of_them if carried.order.seal),
        )

    def take(self, order: Order) -> None:
        """Start the order's child. An attempt that is known already is left alone: sending twice is harmless."""
        if order.attempt in self._carried:
            return
        carried = self._carried[order.attempt] = Carried(order)
        self.tasks.create_task(self._carry(carried), name=f"run {order.run_id}")
        self.changed.set()

    def forget(self, order: Forget) -> None:
        for attempt in order.attempts:
            carried = self._carried.get(attempt)
            if carried and carried.exit:
                del self._carried[attempt]

    def cancel(self, order: Cancel) -> None:
        carried = self._carried.get(order.attempt)
        if carried and not carried.cancelled and not carried.exit:
            carried.cancelled = True
            self.tasks.create_task(self._end(carried, order.grace_s), name=f"cancel {carried.order.run_id}")

    def suspend(self, order: Suspend) -> None:
        """Tell the child: its engine stops at its next boundary."""
        carried = self._carried.get(order.attempt)
        if carried and carried.leash and not carried.exit:
            with contextlib.suppress(OSError):
                carried.leash.send(SUSPEND)

    def end_all(self, cause: str) -> None:
        """What all runs stand on is gone: end those that use Dask, each with this cause."""
        for carried in self._carried.values():
            if carried.pid and not carried.dead.is_set() and carried.order.dask:
                carried.notes["cause"] = cause
                self._family.kill(carried.pid)

    def _living(self) -> set[int]:
        return {one.pid for one in self._carried.values() if one.pid and not one.dead.is_set()}

    async def _carry(self, carried: Carried) -> None:
        try:
            carried.exit = await self._child(carried)
        except (OSError, Permanent) as exc:  # this run's trouble; the others go on
            carried.exit = Exit(code=70, cause=f"the driver could not run it: {exc}")
        _log.info("child_ended", run=carried.order.run_id, code=carried.exit.code, signal=carried.exit.signal)
        carried.started.set()
        carried.dead.set()
        self.changed.set()

    async def _child(self, carried: Carried) -> Exit:
        order = carried.order
        folder = self.folder / "runs" / order.attempt
        outputs = self.folder / "outputs"
        for made in (folder / "tmp", folder / "prefect", outputs):
            made.mkdir(parents=True, exist_ok=True)
        output = Output(outputs / f"{order.attempt}.log", limit_bytes=self.output_limit_bytes)
        try:
            return await self._supervise(carried, folder, output)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            self._keep_few(outputs)

    async def _supervise(self, carried: Carried, folder: Path, output: Output) -> Exit:
        forks = self.templates.forks_for(carried.order.env) if self.templates else self.forks
        read_end, write_end = os.pipe()
        ours, theirs = socket.socketpair()
        ship_ours, ship_theirs = socket.socketpair()
        carried.leash, before = ours, self.kills.cgroup.counters()
        bag = Mailbag(carried.order.token)
        for record in self.preface.records(carried.order):
            self.outbox.log(bag, record)
        reading = asyncio.create_task(output.read(read_end), name="output")
        noting = asyncio.create_task(self._note(carried, ours), name="leash")
        collecting = asyncio.create_task(self.outbox.collect(ship_ours, bag), name="records")
        try:
            carried.pid = await forks.fork(
                carried.order.attempt,
                self._brief(carried, folder),
                folder,
                Fds(write_end, theirs.detach(), ship_theirs.detach()),
            )
            carried.started.set()
            _log.info("child_started", run=carried.order.run_id, pid=carried.pid)
            watching = asyncio.create_task(self._watch_memory(carried), name="memory")
            status = await self._ended(carried, forks.ended(carried.pid))
            carried.dead.set()
            self._note_kill(carried, status, before)
            watching.cancel()
            if left := await self._family.sweep():
                _log.error(
                    "processes_left", run=carried.order.run_id, pids=sorted(left), reason="they wait in the kernel"
                )
            forks.forget(carried.pid)
            await asyncio.wait([reading, noting, collecting], timeout=_LAST_WORDS_S)
            if not await self.outbox.emptied(bag, _DELIVERY_S):
                _log.error("records_not_delivered", run=carried.order.run_id, records=bag.waiting)
        finally:
            for task in (reading, noting, collecting):
                task.cancel()
            await asyncio.gather(reading, noting, collecting, return_exceptions=True)
            for end in (ours, ship_ours):
                end.close()
        return exit_of(status, tail=output.tail(), notes=carried.notes)

    def _note_kill(self, carried: Carried, status: int, before: Counters) -> None:
        """Whether it was the kernel that ended the child, for lack of memory."""
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if is_killed and not carried.cancelled and "cause" not in carried.notes and (code := self.kills.claim(before)):
            cgroup = self.kills.cgroup
            carried.notes["cause"] = said(code, who="run's process", limit=cgroup.limit(), peak=cgroup.peak())

    @staticmethod
    async def _ended(carried: Carried, ended: Coroutine[Any, Any, int]) -> int:
        """The child's wait status; of one that cannot be killed, as if it had been: it will never run user code again."""
        ending = asyncio.create_task(ended, name="ended")
        giving_up = asyncio.create_task(carried.given_up.wait(), name="given up")
        try:
            await asyncio.wait((ending, giving_up), return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return ending.result()
            carried.notes["cause"] = _UNKILLABLE
            return int(signal.SIGKILL)
        finally:
            ending.cancel()
            giving_up.cancel()

    def _brief(self, carried: Carried, folder: Path) -> str:
        order = carried.order
        scheduler = self.scheduler if order.dask else None
        env = environment(order, desk=self.api_url, folder=str(folder), scheduler=scheduler, storage=self.storage)
        return Brief(order=order, env=env, lean=self.lean, scheduler=scheduler).model_dump_json()

    async def _note(self, carried: Carried, leash: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=leash.dup())
        try:
            while line := await reader.readline():
                # User code may write there too: nonsense is not ours to obey.
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    carried.notes.update(_note(line))
                if carried.notes.pop("asks", None):
                    self.losses.ask()
                if imported := carried.notes.pop("imported", None):
                    self._learn(carried.order, imported)
                if "cancelling" in carried.notes:
                    carried.answered.set()
                self.changed.set()
        except (ValueError, OSError):
            return
        finally:
            writer.close()

    def _learn(self, order: Order, imported: Any) -> None:
        if self.templates:
            self.templates.learn(order.env, imported)

    async def _end(self, carried: Carried, grace_s: float) -> None:
        """Ask the child to end as cancelled, then signal it; after `grace_s` kill it and all that it started."""
        await carried.started.wait()
        if carried.dead.is_set() or carried.pid is None or carried.leash is None:
            return
        if not carried.notes.get("reported"):  # else it has ended, but for its last records
            await self._ask(carried, carried.pid, carried.leash)
        if await _set_within(carried.dead, grace_s):
            return
        _log.warning("child_killed", run=carried.order.run_id, pid=carried.pid, grace_s=grace_s)
        self._family.kill(carried.pid)
        if not await _set_within(carried.dead, _KILLED_S):
            _log.error("child_not_killed", run=carried.order.run_id, pid=carried.pid, reason=_UNKILLABLE)
            carried.given_up.set()

    @staticmethod
    async def _ask(carried: Carried, pid: int, leash: socket.socket) -> None:
        with contextlib.suppress(OSError):
            leash.send(CANCEL)
        await _set_within(carried.answered, _COMMIT_S)
        if not carried.dead.is_set():
            oskit.kill({pid}, signal.SIGTERM)

    async def _watch_memory(self, carried: Carried) -> None:
        limit = carried.order.memory_limit_bytes
        while limit and carried.pid:
            used = oskit.memory_bytes({carried.pid} | oskit.descendants(carried.pid, oskit.process_table()))
            if used > limit:
                told = {"used": f"{used >> 20} MiB", "limit": f"{limit >> 20} MiB"}
                carried.notes["cause"] = said("memory-limit", **told)
                oskit.kill({carried.pid} | oskit.descendants(carried.pid, oskit.process_table()))
                return
            await asyncio.sleep(_MEMORY_LOOK_S)

    @staticmethod
    def _keep_few(outputs: Path) -> None:
        kept = sorted(outputs.glob("*.log"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_OUTPUTS_KEPT]:
            path.unlink(missing_ok=True)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


def _note(line: bytes) -> dict[str, Any]:
    note = json.loads(line)
    if not isinstance(note, dict):
        raise TypeError("a note is an object")
    allowed = {"phase": ("running", "refused"), "cause": str, "imported": list}
    allowed |= dict.fromkeys(("reported", "cancelling", "asks"), bool)
    return {name: value for name, value in note.items() if _is(value, allowed.get(name, ()))}


def _is(value: Any, allowed: Any) -> bool:
    return isinstance(value, allowed) if isinstance(allowed, type) else value in allowed
