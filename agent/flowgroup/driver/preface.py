"""
What stands in a run's log before its own first line: what the daemon has to say, and what the start script said.

The start script's output goes to the first run: it is the one that waited for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flowgroup.model import lines
from flowgroup.model.orders import Order

_SCRIPT = "flowgroup.start_script"


@dataclass
class Preface:
    """`script_lines` are told once."""

    script_lines: tuple[str, ...] = ()
    _at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def records(self, order: Order) -> Iterator[dict[str, Any]]:
        """Each as Prefect's `POST /logs/` takes it; their times put them in order, for that is how they are shown."""
        script_lines, self.script_lines = self.script_lines, ()
        for number, said in enumerate(script_lines):
            at = self._at + timedelta(microseconds=number)
            yield lines.line(order.run_id, _SCRIPT, lines.INFO, said, at)
        for remark in order.remarks:
            level = lines.WARNING if remark.is_warning else lines.INFO
            yield lines.line(order.run_id, "flowgroup", level, remark.text, datetime.now(UTC))
