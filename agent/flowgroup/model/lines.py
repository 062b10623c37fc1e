"""A line of a run's log, as Prefect's `POST /logs/` takes it."""

from datetime import datetime
from typing import Any

from flowgroup.model.ids import RunId

INFO, WARNING, ERROR = 20, 30, 40
"""Levels, as the standard library numbers them."""

_NAMES = ((50, "CRITICAL"), (ERROR, "ERROR"), (WARNING, "WARNING"), (INFO, "INFO"))


def level_name(level: int) -> str:
    """The name of that level, or of the next one below: a run may say any number."""
    return next((name for least, name in _NAMES if level >= least), "DEBUG")


def line(run_id: RunId, logger: str, level: int, message: str, at: datetime) -> dict[str, Any]:
    """Prefect shows lines by their times: those of one moment want microseconds between them to stay in order."""
    said = message.replace("\x00", "\N{REPLACEMENT CHARACTER}") or " "
    return {"name": logger, "level": level, "message": said, "timestamp": at.isoformat(), "flow_run_id": run_id}
