"""Logging: structlog, JSON lines unless a person looks at a terminal. Event names are constants; data are fields."""

import logging
import sys
from typing import Any, TextIO

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, room: str, level: str = "info", to: TextIO | None = None) -> None:
    """Set up logging for this process. `room` is bound to every line."""
    out = to or sys.stderr
    # Plain tracebacks: pretty ones show local variables, and one of them may be a token.
    render: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if out.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(room=room)
    logging.basicConfig(level=logging.WARNING, stream=out, format="%(levelname)s %(name)s %(message)s", force=True)


def get() -> Any:
    """A logger. Its methods take an event's name and fields: `log.info("run_claimed", run=run.id)`."""
    return structlog.get_logger()
