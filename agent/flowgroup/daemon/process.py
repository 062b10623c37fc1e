"""The daemon as a process of this machine: its signals, what it says on disk, and how it ends."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowgroup.edge.files import write_atomically
from flowgroup.errors import Refused

Loops = dict[str, Coroutine[Any, Any, None]]
"""By name. None of them ends by itself."""


def threads(count: int | None = None) -> ThreadPoolExecutor:
    """
    For what would block the loop: stores, folders that are deleted, processes that are ended. As many as asyncio itself would
    have in the end, and all there from the start: one more is seen as what it is, and not taken for a pool that fills up.
    """
    count = count or min(32, (os.cpu_count() or 1) + 4)
    pool = ThreadPoolExecutor(count, thread_name_prefix="daemon")
    all_there = threading.Barrier(count)
    for waiting in [pool.submit(all_there.wait) for _ in range(count)]:
        waiting.result()
    return pool


@contextmanager
def ungrouped() -> Iterator[None]:
    """A refusal leaves the task groups that it came through as what it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        found: BaseException | None = group.subgroup(Refused)
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if found is not None:
            raise found from None
        raise


@contextmanager
def announced(path: Path, port: int) -> Iterator[None]:
    """Say on disk that we serve, and where our health is."""
    write_atomically(path, json.dumps({"pid": os.getpid(), "health_port": port}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def stopped_by_signals() -> Iterator[asyncio.Event]:
    """An event that the first signal sets. The second one ends the process where it stands."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def until_stopped(stop: asyncio.Event, loops: Loops) -> None:
    """Run the loops until the flag is set. A loop that ends is an error, and an error in one ends all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_endless(name, loop), name=name) for name, loop in loops.items()]
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _endless(name: str, loop: Coroutine[Any, Any, None]) -> None:
    await loop
    raise RuntimeError(f"the loop {name!r} ended")
