"""`python -m flowgroup.dev.bench`: runs every case on every side, prints a table, and adds to `bench.jsonl`."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from flowgroup.dev.bench.cases import CASES, IN_PODS, Case
from flowgroup.dev.bench.figures import OURS, PODS, THEIRS, Row, judged
from flowgroup.dev.bench.installed import installed
from flowgroup.dev.bench.measure import measured
from flowgroup.dev.bench.pods import kubernetes_worker, ours_in_pods
from flowgroup.dev.bench.sides import Bench, Side, Size, measuring, ours, process_worker, say
from flowgroup.dev.bench.table import table
from flowgroup.dev.minder import sweep
from flowgroup.dev.service import as_command, ends_like_ctrl_c

_PREFIX = "flowgroup-bench-"
_WRITTEN = Path("bench.jsonl")
_LOOPBACK = "127.0.0.1"
_HOST, _PEER = "198.19.255.1", Path(".venv-peer/bin/python")
Made = Callable[[], Side]
_LIMIT_S = 1800.0
_POLL_1S = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
_OTHERS = {THEIRS: {}, f"{THEIRS}, poll 1 s": _POLL_1S}
_SIZES = (
    Size(singles=20, burst=100, scheduled=20, held=2, more=5),
    Size(singles=5, burst=10, scheduled=5),
)
"""Ours and the others': a hundred runs would take them seven minutes, and more runs under way all memory."""
_SIZES_IN_PODS = (Size(singles=20, burst=50, scheduled=2), Size(singles=5, burst=10, scheduled=2))
_COLD, _COLD_OTHERS, _AHEAD = 8, 5, 3
_FEW = Size(singles=2, burst=4, scheduled=2, tasks=50, stock_tasks=10, storm=200, spoken_s=4.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every case was measured on every side; 1 when the time was over before, or a run failed."""
    args = _parser().parse_args(argv)
    ends_like_ctrl_c()
    sweep(_PREFIX)
    known = IN_PODS if args.kubernetes else CASES
    cases = [case for case in known if case.__name__ in args.cases or not args.cases]
    rows: list[Row] = []
    try:
        with measuring(_PREFIX, args.host if args.kubernetes else _LOOPBACK) as bench, _sides(bench, args) as sides:
            wanted = [side for name, side in sides.items() if name in args.sides or not args.sides]
            _measure(bench, wanted, cases, into=rows)
    finally:
        rows = judged(rows)
        _write(rows)
    print(f"\n{table(rows)}\n{_about(rows)}")
    return 1 if any(row["trouble"] for row in rows) else 0


def _measure(bench: Bench, sides: Sequence[Made], cases: Sequence[Case], *, into: list[Row]) -> None:
    """The others first: if the time is over early, our last cases are left out, and what they are compared with is there."""
    deadline = time.monotonic() + _LIMIT_S
    for made in sides:
        for row in measured(bench, made(), cases, deadline, say):
            into.append(row)  # at once: what was measured is written though the rest be interrupted


@contextmanager
def _sides(bench: Bench, args: argparse.Namespace) -> Iterator[Mapping[str, Made]]:
    if not args.kubernetes:
        own, others = (_FEW, _FEW) if args.few else _SIZES
        found: dict[str, Made] = {
            name: partial(process_worker, bench, name, others, env) for name, env in _OTHERS.items()
        }
        yield {**found, OURS: partial(ours, bench, own)}
        return
    own, others = (_FEW, _FEW) if args.few else _SIZES_IN_PODS
    cold, cold_others, ahead = (1, 1, 1) if args.few else (_COLD, _COLD_OTHERS, _AHEAD)
    say("installing the chart")
    with installed(bench) as there:
        yield {
            PODS: partial(kubernetes_worker, bench, there, others, args.peer, cold=cold_others),
            OURS: partial(ours_in_pods, bench, there, own, cold=cold, ahead=ahead),
        }


def _parser() -> argparse.ArgumentParser:
    names, in_pods = ([case.__name__ for case in cases] for cases in (CASES, IN_PODS))
    parser = argparse.ArgumentParser(
        prog="python -m flowgroup.dev.bench", description="flowgroup beside prefect worker"
    )
    parser.add_argument(
        "cases",
        nargs="*",
        type=_case,
        metavar="CASE",
        help=f"only these; there are {', '.join(names)}; {', '.join(in_pods)}",
    )
    parser.add_argument("--kubernetes", action="store_true", help="on the cluster of $KUBECONFIG, beside its worker")
    parser.add_argument("--host", default=_HOST, help="this machine as pods reach it (%(default)s)")
    parser.add_argument("--peer", type=Path, default=_PEER, help="a Python with prefect-kubernetes (%(default)s)")
    parser.add_argument("--sides", nargs="+", default=[], choices=[OURS, *_OTHERS, PODS], help="only these")
    parser.add_argument("--few", action="store_true", help="few runs of everything: to see that it works")
    return parser


def _case(name: str) -> str:
    if name not in (case.__name__ for case in (*CASES, *IN_PODS)):
        raise argparse.ArgumentTypeError(f"there is no case {name!r}")
    return name


def _write(rows: list[Row]) -> None:
    with _WRITTEN.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _about(rows: list[Row]) -> str:
    loads = [row["load"] for row in rows if "load" in row] or [0.0]
    about = f"{os.cpu_count()} cores, Prefect {version('prefect')}, Python {platform.python_version()}"
    return f"{about}, load {min(loads)} to {max(loads)}; added to {_WRITTEN}"


if __name__ == "__main__":
    as_command(main)
