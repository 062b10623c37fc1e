"""The page `docs/outage.md`: the last figures of every case, and what they were to be."""

import os
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version

from flowgroup.dev.outage.cases import Row

OURS, THEIRS = "flowgroup", "prefect worker start --type process"
_DRAINED_S, _HELD_S = 60.0, 10.0
_HEAD = (
    "| what goes wrong | seconds | runs | lines | lost | doubled | out of order | states, tasks, exits | held at most | "
    "drained after | calls a second: before, meanwhile, first minute after | measured |\n"
    "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---|---|"
)
_LINES = ("lines lost", "lines doubled", "lines out of order")


def missed(row: Row) -> list[str]:
    """What a row of ours misses."""
    found = [f"{count} {what}" for what, count in row["wrong"].items()]
    found += [f"the {name} has ended" for name in row["exits"]]
    if row["trouble"]:
        found.append(row["trouble"])
    if row["drained_s"] is None or row["drained_s"] > _DRAINED_S:
        found.append(f"not drained within {_DRAINED_S:.0f} s")
    if row["held_s"] is not None and row["held_s"] > _HELD_S:
        found.append(f"a call was held for {row['held_s']:.2f} s")
    return found


def page(rows: Sequence[Row], cases: Collection[str]) -> str:
    """Of rows with `side` and `at`; later ones take the place of earlier ones of the same case. `cases` are all of ours."""
    last = {(row["side"], row["case"]): row for row in rows}
    mine, others = (
        sorted((row for row in last.values() if (row["side"] == OURS) is own), key=_order) for own in (True, False)
    )
    about = f"{os.cpu_count()} cores, Prefect {version('prefect')} with SQLite, Python {platform.python_version()}"
    troubles = [f"- {row['case']}, {row['seconds']} s: {', '.join(missed(row))}." for row in mine if missed(row)]
    there = {row["case"] for row in mine}
    troubles += [f"- {name}: not measured yet." for name in cases if name not in there]
    parts = [
        "# Through outages",
        f"Written by `make outage`: {about}, on a machine that other work may have kept busy.",
        "Runs say numbered lines, ten a second each, with a task every five seconds, before a trouble, through it and after; "
        "one run ends and two begin meanwhile. What is counted is what a real Prefect server has of them in the end. The "
        "trouble is real on the wire: a proxy before the server does it (`dev/front.py`), or the relay is killed by SIGKILL. "
        "*Held* is the longest that a call of the runs' own to the API took; *drained* is from the trouble's end until the "
        "newest line of every run is younger than two seconds.",
        "To be reached: nothing lost, doubled or out of order, every run Completed with each state once, nothing that exits, "
        f"no call held for longer than {_HELD_S:.0f} s, drained within {_DRAINED_S:.0f} s.",
        "## flowgroup\n\n" + _table(mine),
        "## What is missed\n\n" + ("\n".join(troubles) or "Nothing, this time."),
        f"## The same through `{THEIRS}`\n\n" + _table(others),
    ]
    return "\n\n".join(parts) + "\n"


def _order(row: Row) -> tuple[bool, int]:
    return row["case"].startswith("relay"), int(row["seconds"])


def _table(rows: Sequence[Row]) -> str:
    return "\n".join([_HEAD, *map(_cells, rows)])


def _cells(row: Row) -> str:
    wrong: Mapping[str, int] = row["wrong"]
    rest = [f"{count} {what}" for what, count in wrong.items() if what not in _LINES]
    rest += [f"the {name} has ended" for name in row["exits"]] + ([row["trouble"]] if row["trouble"] else [])
    cells = [
        row["case"],
        row["seconds"],
        row["runs"],
        row["lines"],
        *(wrong.get(what, 0) for what in _LINES),
        "; ".join(rest) or "as they should be",
        _seconds(row["held_s"], "not asked"),
        _seconds(row["drained_s"], "not in two minutes"),
        f"{row['busiest_before']}, {row['busiest_meanwhile']}, {row['busiest_after']}",
        f"{row['at'][:10]}, load {row['load']}" if "load" in row else row["at"][:10],
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _seconds(value: float | None, without: str) -> str:
    return without if value is None else f"{value:.1f} s"
