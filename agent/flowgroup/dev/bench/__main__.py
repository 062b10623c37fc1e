"""`python -m flowgroup.dev.bench`: runs every case on every side, prints a table, and adds to `bench.jsonl`."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from flowgroup.dev.bench.cases import CASES, Case
from flowgroup.dev.bench.figures import OURS, THEIRS, Row, judged
from flowgroup.dev.bench.measure import measured
from flowgroup.dev.bench.sides import Bench, Side, Size, ours, process_worker
from flowgroup.dev.bench.table import table
from flowgroup.dev.minder import minded, sweep
from flowgroup.dev.patient import api_at
from flowgroup.dev.server import start_prefect_server
from flowgroup.dev.service import ends_like_ctrl_c
from flowgroup.errors import FlowgroupError

_PREFIX = "flowgroup-bench-"
_WRITTEN = Path("bench.jsonl")
_LIMIT_S = 1800.0
_POLL_1S = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
_OTHERS = {THEIRS: {}, f"{THEIRS}, poll 1 s": _POLL_1S}
_SIZES = (
    Size(singles=20, burst=100, scheduled=20, held=2, more=5),
    Size(singles=5, burst=10, scheduled=5),
)
"""Ours and the others': a hundred runs would take them seven minutes, and more runs under way all memory."""
_FEW = Size(singles=2, burst=4, scheduled=2, tasks=50, stock_tasks=10, storm=200, spoken_s=4.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every case was measured on every side; 1 when the time was over before, or a run failed."""
    args = _parser().parse_args(argv)
    ends_like_ctrl_c()
    sweep(_PREFIX)
    cases = [case for case in CASES if case.__name__ in args.cases or not args.cases]
    rows: list[Row] = []
    try:
        with _bench() as bench:
            sides = [name for name in (*_OTHERS, OURS) if name in args.sides or not args.sides]
            _measure(bench, sides, cases, few=args.few, into=rows)
    finally:
        rows = judged(rows)
        _write(rows)
    print(f"\n{table(rows)}\n{_about(rows)}")
    return 1 if any(row["trouble"] for row in rows) else 0


def _measure(bench: Bench, sides: Sequence[str], cases: Sequence[Case], *, few: bool, into: list[Row]) -> None:
    """The others first: if the time is over early, our last cases are left out, and what they are compared with is there."""
    deadline = time.monotonic() + _LIMIT_S
    for name in sides:
        for row in measured(bench, _side(bench, name, few), cases, deadline, _say):
            into.append(row)  # at once: what was measured is written though the rest be interrupted


def _side(bench: Bench, name: str, few: bool) -> Side:
    own, others = (_FEW, _FEW) if few else _SIZES
    return ours(bench, own) if name == OURS else process_worker(bench, name, others, _OTHERS[name])


@contextmanager
def _bench() -> Iterator[Bench]:
    with minded(Path(tempfile.mkdtemp(prefix=_PREFIX)), remove=True) as mind:
        _say("starting a Prefect server")
        url = start_prefect_server(mind, cache=Path.home() / ".cache" / "flowgroup", for_measuring=True)
        with api_at(url) as api:
            yield Bench(mind, url, api)


def _parser() -> argparse.ArgumentParser:
    names = [case.__name__ for case in CASES]
    parser = argparse.ArgumentParser(
        prog="python -m flowgroup.dev.bench", description="flowgroup beside prefect worker"
    )
    parser.add_argument(
        "cases", nargs="*", type=_case, metavar="CASE", help=f"only these; there are {', '.join(names)}"
    )
    parser.add_argument("--sides", nargs="+", default=[], choices=[OURS, *_OTHERS], help="only these")
    parser.add_argument("--few", action="store_true", help="few runs of everything: to see that it works")
    return parser


def _case(name: str) -> str:
    if name not in (case.__name__ for case in CASES):
        raise argparse.ArgumentTypeError(f"there is no case {name!r}")
    return name


def _write(rows: list[Row]) -> None:
    with _WRITTEN.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _about(rows: list[Row]) -> str:
    loads = [row["load"] for row in rows if "load" in row] or [0.0]
    about = f"{os.cpu_count()} cores, Prefect {version('prefect')}, Python {platform.python_version()}"
    return f"{about}, load {min(loads)} to {max(loads)}; added to {_WRITTEN}"


def _say(text: str) -> None:
    print(f"\N{BULLET} {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlowgroupError as exc:
        sys.exit(f"flowgroup: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
