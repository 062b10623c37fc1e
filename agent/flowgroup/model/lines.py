"""A line of a run's log, as Prefect's `POST /logs/` takes it."""

from datetime import datetime
from typing import Any

from flowgroup.model.ids import RunId

INFO, WARNING, ERROR = 20, 30, 40
"""Levels, as the standard library numbers them."""


def line(run_id: RunId, logger: str, level: int, message: str, at: datetime) -> dict[str, Any]:
    """Prefect shows lines by their times: those of one moment want microseconds between them to stay in order."""
    said = message.replace("\x00", "\N{REPLACEMENT CHARACTER}") or " "
    return {"name": logger, "level": level, "message": said, "timestamp": at.isoformat(), "flow_run_id": run_id}
