"""
What stands in a run's log before its own first line: what the daemon has to say, and what the start script said.

The start script's output goes to the first run: it is the one that waited for it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flowgroup.model.orders import Order

_SCRIPT = "flowgroup.start_script"


@dataclass
class Preface:
    """`script_lines` are told once."""

    script_lines: tuple[str, ...] = ()
    _at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def records(self, order: Order) -> Iterator[dict[str, Any]]:
        """Each as Prefect's `POST /logs/` takes it; their times put them in order, for that is how they are shown."""
        lines, self.script_lines = self.script_lines, ()
        for number, line in enumerate(lines):
            at = self._at + timedelta(microseconds=number)
            yield _record(order, _SCRIPT, logging.INFO, line, at)
        for remark in order.remarks:
            level = logging.WARNING if remark.is_warning else logging.INFO
            yield _record(order, "flowgroup", level, remark.text, datetime.now(UTC))


def _record(order: Order, logger: str, level: int, message: str, at: datetime) -> dict[str, Any]:
    clean = message.replace("\x00", "\N{REPLACEMENT CHARACTER}") or " "
    return {
        "name": logger,
        "level": level,
        "message": clean,
        "timestamp": at.isoformat(),
        "flow_run_id": order.run_id,
    }
