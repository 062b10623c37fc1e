"""The daemon as a process of this machine: its signals, what it says on disk, and how it ends."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgroup.edge.files import write_atomically
from flowgroup.errors import Refused


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
