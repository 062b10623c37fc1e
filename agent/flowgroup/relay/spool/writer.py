"""
The one thread that touches the spool's file. What is asked for while a commit is under way is committed together with the
next: many small batches cost one sync.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from flowgroup import log, metrics
from flowgroup.errors import Transient
from flowgroup.relay.spool.disk import Disk, is_corrupt, is_full

T = TypeVar("T")
_MOST_JOBS = 200


class Doing(Protocol):
    """Whatever carries out jobs on the spool's disk: when it returns, they are committed."""

    async def do(self, job: Callable[[Disk], T]) -> T: ...


@dataclass(slots=True)
class _Asked:
    job: Callable[[Disk], Any]
    done: "asyncio.Future[Any]"
    result: Any = None
    trouble: Exception | None = None


class Writer:
    """Owns `disk`, and closes it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    async def do(self, job: Callable[[Disk], T]) -> T:
        """
        What `job` gives, once it is on disk. A job that raises Transient undoes what it did itself and fails alone.

        Raises Transient when nothing could be written: the disk is full, or does not work.
        """
        asked = _Asked(job, self._loop.create_future())
        self._asked.put(asked)
        result: T = await asked.done
        return result

    async def close(self) -> None:
        """What was asked for is carried out; then the file is closed."""
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        going_on = True
        while going_on:
            group, going_on = self._group()
            if group:
                committed(self._disk, group)
                self._loop.call_soon_threadsafe(_tell, group)
            if self._asked.empty():
                checkpoint(self._disk)
        self._disk.close()

    def _group(self) -> tuple[list[_Asked], bool]:
        asked = self._asked.get()
        group: list[_Asked] = []
        while asked is not None:
            group.append(asked)
            if len(group) >= _MOST_JOBS:
                return group, True
            try:
                asked = self._asked.get_nowait()
            except queue.Empty:
                return group, True
        return group, False


class Inline:
    """The same without a thread, for tests whose time is virtual."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def do(self, job: Callable[[Disk], T]) -> T:
        asked = _Asked(job, asyncio.get_running_loop().create_future())
        committed(self._disk, [asked])
        await asyncio.sleep(0)
        _tell([asked])
        result: T = await asked.done
        return result


def committed(disk: Disk, group: list[_Asked]) -> None:
    """All jobs in one transaction. When it does not come to be all of them have the trouble."""
    try:
        with metrics.RELAY_SPOOL_COMMIT_SECONDS.time(), disk.transaction():
            for asked in group:
                _carry_out(disk, asked)
    except sqlite3.Error as exc:
        for asked in group:
            asked.trouble = Transient(f"the relay's spool cannot be written: {exc}")
        _after(disk, exc)
    except Exception as exc:  # noqa: BLE001  a defect of ours costs those who asked, not the thread
        for asked in group:
            asked.trouble = exc
    metrics.RELAY_SPOOL_COMMITS.inc()


def checkpoint(disk: Disk) -> None:
    """When it is time. What was committed is on disk anyway."""
    try:
        disk.checkpoint()
    except sqlite3.Error as exc:
        _after(disk, exc)


def _carry_out(disk: Disk, asked: _Asked) -> None:
    try:
        asked.result = asked.job(disk)
    except Transient as exc:
        asked.trouble = exc


def _after(disk: Disk, exc: sqlite3.Error) -> None:
    log.get().error(
        "spool_not_written", reason=str(exc), remedy="see that the disk of FLOWGROUP_RELAY_SPOOL has room and works"
    )
    if is_full(exc):
        disk.make_room()
    elif isinstance(exc, sqlite3.DatabaseError) and is_corrupt(exc):
        disk.start_anew(exc)


def _tell(group: list[_Asked]) -> None:
    for asked in group:
        if asked.done.done():  # whoever asked has gone
            continue
        if asked.trouble is not None:
            asked.done.set_exception(asked.trouble)
        else:
            asked.done.set_result(asked.result)
