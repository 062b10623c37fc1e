"""Runs cases on sides: a line per figure, or per trouble."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from flowgroup.dev.bench import access
from flowgroup.dev.bench.cases import OURS_ONLY, Case
from flowgroup.dev.bench.figures import Row, row
from flowgroup.dev.bench.sides import Bench, Side
from flowgroup.errors import FlowgroupError


def measured(
    bench: Bench, side: Side, cases: Sequence[Case], deadline: float, say: Callable[[str], None]
) -> Iterator[Row]:
    """One case after the other; those that have not begun at the deadline (a monotonic moment) are left out, and said."""
    with side.up:
        for case in cases:
            if not side.is_ours and case in OURS_ONLY:
                continue
            name = case.__name__
            if time.monotonic() > deadline:
                yield row(side.name, name, None, trouble="not measured: the benchmark's time was over")
                continue
            say(f"{side.name}: {name}")
            about, size = _about(), bench.log_size()
            found = list(_rows(bench, side, case))
            locked = access.locked(bench.logged(size)) > 0
            yield from ({**about, **one, "database_locked": locked} for one in found)


def _rows(bench: Bench, side: Side, case: Case) -> Iterator[Row]:
    try:
        for figure in case(bench, side):
            yield row(side.name, case.__name__, figure)
    except FlowgroupError as exc:
        yield row(side.name, case.__name__, None, trouble=str(exc))


def _about() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "prefect": version("prefect"),
    }
