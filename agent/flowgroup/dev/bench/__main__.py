"""`python -m flowgroup.dev.bench`: runs every case on every side, prints a table, and adds to `bench.jsonl`."""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flowgroup.dev.bench.cases import CASES, Figure
from flowgroup.dev.bench.sides import Bench, Side, ours, process_worker
from flowgroup.dev.minder import minded, sweep
from flowgroup.dev.patient import api_at
from flowgroup.dev.server import start_prefect_server
from flowgroup.dev.service import ends_like_ctrl_c
from flowgroup.errors import FlowgroupError

_PREFIX = "flowgroup-bench-"
_WRITTEN = Path("bench.jsonl")
_LIMIT_S = 420.0
_POLL_1S = {"PREFECT_WORKER_QUERY_SECONDS": "1"}


def main() -> int:
    """Returns 0 when every case was measured on every side; 1 when the time was over before, or a run failed."""
    ends_like_ctrl_c()
    sweep(_PREFIX)
    rows: list[dict[str, Any]] = []
    with _bench() as bench:
        deadline = time.monotonic() + _LIMIT_S
        sides: tuple[Callable[[], Side], ...] = (
            lambda: ours(bench, singles=10),
            lambda: process_worker(bench, "process worker", singles=5, env={}),
            lambda: process_worker(bench, "process worker, poll 1 s", singles=5, env=_POLL_1S),
        )
        for made in sides:
            told = _measured(bench, made(), deadline)
            _write(told)
            rows += told
    print(_table(rows))
    return 1 if any(row["trouble"] for row in rows) else 0


@contextmanager
def _bench() -> Iterator[Bench]:
    with minded(Path(tempfile.mkdtemp(prefix=_PREFIX)), remove=True) as mind:
        _say("starting a Prefect server")
        url = start_prefect_server(mind, cache=Path.home() / ".cache" / "flowgroup", access_log=True)
        with api_at(url) as api:
            yield Bench(mind, url, api)


def _measured(bench: Bench, side: Side, deadline: float) -> list[dict[str, Any]]:
    rows = []
    with side.up:
        for case in CASES:
            name, load = case.__name__, os.getloadavg()[0]
            if time.monotonic() > deadline:
                rows.append(_row(side, name, load, None, f"not measured: the benchmark has had its {_LIMIT_S:.0f} s"))
                continue
            _say(f"{side.name}: {name}")
            locked = _locked(bench)
            try:
                rows += [_row(side, name, load, figure) for figure in case(bench, side)]
            except FlowgroupError as exc:
                rows.append(_row(side, name, load, None, str(exc)))
            if _locked(bench) > locked:
                for row in rows:
                    row["database_locked"] |= row["case"] == name
    return rows


def _locked(bench: Bench) -> int:
    """How often the server gave up on its SQLite file, for which calls may wait a minute."""
    return bench.server_log.read_text(errors="replace").count("(sqlite3.OperationalError) database is locked")


def _row(side: Side, case: str, load: float, figure: Figure | None, trouble: str | None = None) -> dict[str, Any]:
    values = figure.values if figure else []
    if figure and not values:
        trouble = "nothing was seen"
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "side": side.name,
        "case": case,
        "what": figure.what if figure else case,
        "unit": figure.unit if figure else "",
        "n": len(values),
        "median": round(statistics.median(values), 4) if values else None,
        "max": round(max(values), 4) if values else None,
        "values": [round(value, 4) for value in values],
        "trouble": trouble,
        "database_locked": False,
        "load": round(load, 2),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "prefect": version("prefect"),
    }


def _write(rows: list[dict[str, Any]]) -> None:
    with _WRITTEN.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _table(rows: list[dict[str, Any]]) -> str:
    """Medians and maxima side by side, one line per figure; the ratio is of the medians, ours to the worker's."""
    sides = list(dict.fromkeys(row["side"] for row in rows))
    found = {(row["what"], row["side"]): row for row in rows}
    lines = ["", f"{'median (max)':34}" + "".join(f"{side:>26}" for side in sides) + f"{'ratio':>10}"]
    for what in dict.fromkeys(row["what"] for row in rows):
        cells = [_cell(found.get((what, side))) for side in sides]
        lines.append(f"{what:34}" + "".join(f"{cell:>26}" for cell in cells) + f"{_ratio(what, found, sides):>10}")
    troubles = [f"  {row['side']}, {row['case']}: {row['trouble']}" for row in rows if row["trouble"]]
    stood = dict.fromkeys(f"  {row['side']}, {row['case']}" for row in rows if row["database_locked"])
    troubles += [f"{who}: the server's database was locked meanwhile, which may cost a minute" for who in stood]
    about = f"{os.cpu_count()} cores, Prefect {version('prefect')}, Python {platform.python_version()}"
    loads = [row["load"] for row in rows]
    return "\n".join([*lines, *troubles, "", f"{about}, load {min(loads)} to {max(loads)}; added to {_WRITTEN}"])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["median"] is None:
        return "-"
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{row['median']:.2f}{unit}" + (f" ({row['max']:.2f})" if row["n"] > 1 else "")


def _ratio(what: str, found: dict[tuple[str, str], dict[str, Any]], sides: list[str]) -> str:
    """Of ours and the first other side, as how many times better we are."""
    mine, theirs = (found.get((what, side), {}) for side in sides[:2])
    if not mine.get("median") or not theirs.get("median"):
        return "-"
    ratio = theirs["median"] / mine["median"]
    return f"{1 / ratio if mine['unit'] == '/min' else ratio:.1f} x"


def _say(text: str) -> None:
    print(f"\N{BULLET} {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlowgroupError as exc:
        sys.exit(f"flowgroup: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
