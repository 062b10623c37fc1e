"""Figures, what they are to reach, and whether they do: values only."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Row = dict[str, Any]
"""A line of `bench.jsonl`."""
OURS, THEIRS = "flowgroup", "process worker"
"""The two sides that are compared; on Kubernetes `PODS` takes the other's place."""
PODS = "kubernetes worker"
_RATES = ("/min", "/s")
_SIGNS = {"at most": "≤", "at least": "≥"}


@dataclass(frozen=True, slots=True)
class Target:
    """`of` is the median, the largest or the smallest value, or how many times as good as Prefect's worker we are."""

    of: Literal["median", "max", "min", "ratio"]
    how: Literal["at most", "at least"]
    limit: float

    def __str__(self) -> str:
        what = "" if self.of == "ratio" else f"{self.of} "
        return f"{what}{_SIGNS[self.how]} {self.limit:g}" + (" x" if self.of == "ratio" else "")

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.how == "at most" else value >= self.limit


def at_most(limit: float, of: Literal["median", "max"] = "median") -> Target:
    return Target(of, "at most", limit)


def at_least(limit: float, of: Literal["median", "min", "ratio"] = "median") -> Target:
    return Target(of, "at least", limit)


@dataclass(frozen=True)
class Figure:
    """
    What was measured. Smaller is better, except where the unit is a rate.

    `targets` are ours to reach, not the others'; `parts` says what a figure consists of.
    """

    what: str
    unit: str
    values: list[float]
    targets: tuple[Target, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)


def row(side: str, case: str, figure: Figure | None, *, trouble: str | None = None) -> Row:
    """A line about a figure, or about the trouble that there is instead."""
    values = figure.values if figure else []
    if figure and not values:
        trouble = "nothing was seen"
    return {
        "side": side,
        "case": case,
        "what": figure.what if figure else case,
        "unit": figure.unit if figure else "",
        "n": len(values),
        "median": round(statistics.median(values), 4) if values else None,
        "max": round(max(values), 4) if values else None,
        "min": round(min(values), 4) if values else None,
        "values": [round(value, 4) for value in values],
        "parts": {name: round(value, 4) for name, value in figure.parts.items()} if figure else {},
        "targets": figure.targets if figure else (),
        "trouble": trouble,
    }


def judged(rows: list[Row]) -> list[Row]:
    """
    The same lines with `target` and `met`; a target that the other side has to be measured for is open without it: None.

    The other sides have nothing to reach.
    """
    return [_judged(row, ratio(row["what"], rows)) for row in rows]


def ratio(what: str, rows: list[Row]) -> float | None:
    """How many times better we are than Prefect's worker with its defaults, by the medians."""
    found = {row["side"]: row for row in rows if row["what"] == what}
    mine, theirs = found.get(OURS, {}), found.get(THEIRS) or found.get(PODS, {})
    if not mine.get("median") or not theirs.get("median"):
        return None
    times = float(theirs["median"] / mine["median"])
    return 1 / times if mine["unit"] in _RATES else times


def _judged(row: Row, times: float | None) -> Row:
    targets = row["targets"] if row["side"] == OURS else ()
    values = {**row, "ratio": times}
    verdicts = [(target, _verdict(target, values[target.of])) for target in targets]
    known = [verdict for _, verdict in verdicts if verdict is not None]
    return {
        **{name: value for name, value in row.items() if name != "targets"},
        "target": ", ".join(str(target) for target in targets) or None,
        "missed": [str(target) for target, verdict in verdicts if verdict is False],
        "met": False if False in known else (True if verdicts and len(known) == len(verdicts) else None),
    }


def _verdict(target: Target, value: float | None) -> bool | None:
    return None if value is None else target.is_met(value)
