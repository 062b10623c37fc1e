"""What a driver and all that runs below it use: processor time and memory, for the daemon's metrics."""

import asyncio
import os
from dataclasses import dataclass

from flowgroup.driver import oskit

_LOOK_S = 10.0


@dataclass(slots=True)
class Usage:
    """`cpu_s` is of all time, and never falls: a process that has ended is its parent's a moment later."""

    cpu_s: float = 0.0
    memory_bytes: int = 0

    async def keep(self) -> None:
        """Measure now and then, without end."""
        while True:
            cpu_s, self.memory_bytes = await asyncio.to_thread(_used, os.getpid())
            self.cpu_s = max(self.cpu_s, cpu_s)
            await asyncio.sleep(_LOOK_S)


def _used(root: int) -> tuple[float, int]:
    pids = {root} | oskit.descendants(root, oskit.process_table())
    return oskit.cpu_s(pids), oskit.memory_bytes(pids)
