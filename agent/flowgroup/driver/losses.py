"""
The desk's side of a question: why did the scheduler, or a worker, end?

Only the daemon can know, from Kubernetes or from the processes that it started. A run's child asks by its leash and reads the
answer in a file; the desk itself asks when the scheduler has gone. An answer is a level: all that is known now.
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

from flowgroup import log
from flowgroup.edge.files import write_atomically
from flowgroup.errors import Transient
from flowgroup.model.orders import Losses

NAME = "losses.json"
SCHEDULER = "scheduler"


@dataclass
class Asking:
    """`file` gets each answer; `changed` is set when the desk's status has changed. `asks` goes into that status."""

    file: Path
    changed: asyncio.Event
    asks: int = 0
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _why: dict[str, str] = field(default_factory=dict)

    def ask(self) -> None:
        self.asks += 1
        self.changed.set()

    def hear(self, losses: Losses) -> None:
        """An answer, which may be one to an earlier question."""
        try:
            write_atomically(self.file, json.dumps(losses.why))
        except Transient as exc:  # the runs' states say less
            log.get().warning("losses_not_written", reason=str(exc))
        self._why = losses.why
        if losses.asks >= self.asks:
            self._told.set()

    async def why(self, name: str, timeout_s: float) -> str:
        """Why it ended, "" if nobody says so in time."""
        self._told.clear()
        self.ask()
        try:
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        except TimeoutError:
            return ""
        return self._why.get(name, "")
