"""`python -m flowgroup.dev.outage`: runs through every trouble; adds to `outage.jsonl`, and writes `docs/outage.md` from it."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from flowgroup.dev.bench.sides import Bench, measuring, say
from flowgroup.dev.front import FAULTS
from flowgroup.dev.minder import sweep
from flowgroup.dev.outage.cases import Row, Size, fault, kills, not_measured, relay_gone, through
from flowgroup.dev.outage.judge import without_zeros
from flowgroup.dev.outage.report import OURS, THEIRS, missed, page
from flowgroup.dev.outage.stand import Stand, ours, theirs
from flowgroup.dev.service import as_command, ends_like_ctrl_c
from flowgroup.errors import FlowgroupError

_PREFIX = "flowgroup-outage-"
_WRITTEN, _PAGE = Path("outage.jsonl"), Path("docs/outage.md")
_SHORT_S, _LONG_S, _KILLS = 45, 180, 30
_FEW_S, _FEW_KILLS = 12, 3
_LONG = ("500", "black hole")
_GONE = "relay gone"
Case = Callable[[Stand], Row]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when nothing of ours missed what it was to reach."""
    args = _parser().parse_args(argv)
    ends_like_ctrl_c()
    sweep(_PREFIX)
    rows: list[Row] = []
    with measuring(_PREFIX) as bench:
        try:
            for row in _rows(bench, args):
                rows.append(row)
                if not args.few:
                    _write(row)  # at once: what was measured is written though the rest be interrupted
        finally:
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                _keep(bench, args.keep)
    return int(any(missed(row) for row in rows if row["side"] == OURS))


def _rows(bench: Bench, args: argparse.Namespace) -> Iterator[Row]:
    if not args.without_peer:
        with theirs(bench) as stand:
            yield from _measured(stand, THEIRS, _theirs(args.few), args.only)
    with ours(bench) as own:
        yield from _measured(own, OURS, _ours(args.few), args.only)


def _ours(few: bool) -> Mapping[str, Case]:
    span_s, long_s, count = (_FEW_S, _FEW_S, _FEW_KILLS) if few else (_SHORT_S, _LONG_S, _KILLS)
    size = Size(runs=2) if few else Size()
    cases: dict[str, Case] = {
        name: partial(through, case=name, trouble=fault(name), span_s=span_s, size=size) for name in FAULTS
    }
    cases[_GONE] = partial(through, case=_GONE, trouble=relay_gone, span_s=span_s, size=size)
    killed = f"relay killed {count} times"
    cases[killed] = partial(kills, case=killed, count=count, size=size)
    for name, trouble in ((_GONE, relay_gone), *((name, fault(name)) for name in _LONG)):
        long = f"{name}, {long_s} s"
        cases[long] = partial(through, case=long, trouble=trouble, span_s=long_s, size=size)
    return cases


def _theirs(few: bool) -> Mapping[str, Case]:
    span_s, size = (_FEW_S, Size(runs=2)) if few else (_SHORT_S, Size())
    return {"500": partial(through, case="500", trouble=fault("500"), span_s=span_s, size=size)}


def _measured(stand: Stand, side: str, cases: Mapping[str, Case], only: Sequence[str]) -> Iterator[Row]:
    chosen = dict.fromkeys(name for wanted in only or "*" for name in cases if fnmatchcase(name, wanted))
    for name in chosen:
        say(f"{side}: {name}")
        at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            row = cases[name](stand)
        except FlowgroupError as exc:
            row = not_measured(name, str(exc))
        row = {"side": side, "at": at, "load": round(os.getloadavg()[0], 1), **row}
        say(f"  {_in_words(row)}")
        yield row


def _in_words(row: Row) -> str:
    held = f", held for at most {row['held_s']:.2f} s" if row["held_s"] is not None else ""
    more = "; ".join([*row["odd"], *(f"{name} ended" for name in row["exits"]), row["trouble"]])
    return f"wrong: {without_zeros(row['wrong'])}; drained after {row['drained_s']} s{held}; {more}"


def _write(row: Row) -> None:
    with _WRITTEN.open("a") as file:
        file.write(json.dumps(row) + "\n")
    _PAGE.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in _WRITTEN.read_text().splitlines()]
    _PAGE.write_text(page(rows, _ours(few=False).keys()))


def _keep(bench: Bench, into: Path) -> None:
    for log in bench.mind.folder.rglob("*.log"):
        (into / "-".join(log.relative_to(bench.mind.folder).parts)).write_bytes(log.read_bytes())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flowgroup.dev.outage")
    parser.add_argument("only", nargs="*", metavar="CASE", help="only these, in this order: '500', 'relay*'")
    parser.add_argument("--few", action="store_true", help="short troubles and few runs: to see that it works")
    parser.add_argument("--without-peer", action="store_true", help="ours alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy all logs there in the end")
    return parser


if __name__ == "__main__":
    as_command(main)
