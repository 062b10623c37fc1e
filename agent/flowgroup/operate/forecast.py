"""
What the coming runs mean for clusters: which are used again, which are made, and how much there is at most. Pure.

Every cluster counts with as many workers as it may have: what is promised is a bound, not a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.spec import ClusterSpec

How = Literal["reused", "prewarmed", "made"]


@dataclass(frozen=True, slots=True)
class Coming:
    """A run that will start at `due_at`, is thought to take `lasts_s`, and whose cluster stays `idle_s` after it."""

    run: RunId
    name: str
    deployment: str
    due_at: datetime
    spec: ClusterSpec
    lasts_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Stay:
    """A cluster from when it is made (or from now on) until it goes. What a daemon tells of a spec is not all of it."""

    name: ClusterName
    spec: ClusterSpec
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Peak:
    most: int
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Forecast:
    how: Mapping[RunId, How]
    stays: tuple[Stay, ...]


def forecast(
    coming: Sequence[Coming], there: Mapping[ClusterName, tuple[ClusterSpec, datetime]], now: datetime, lead_s: float
) -> Forecast:
    """
    `there` are the clusters that exist, each with the moment when it goes if nobody comes. `lead_s` is how long before a run
    its cluster is made; 0: never ahead.
    """
    stays = {name: Stay(name, spec, now, until) for name, (spec, until) in there.items()}
    over: list[Stay] = []
    how: dict[RunId, How] = {}
    for run in sorted(coming, key=lambda one: (one.due_at, one.run)):
        begin = max(now, run.due_at - timedelta(seconds=lead_s))
        end = max(now, run.due_at) + timedelta(seconds=run.lasts_s + run.idle_s)
        known = stays.get(name := run.spec.name)
        if known and known.end >= begin:
            how[run.run] = "reused"
            stays[name] = Stay(name, known.spec, known.begin, max(known.end, end))
            continue
        if known:
            over.append(known)
        how[run.run] = "prewarmed" if begin < run.due_at else "made"
        stays[name] = Stay(name, run.spec, begin, end)
    return Forecast(how, tuple(sorted([*over, *stays.values()], key=lambda stay: (stay.begin, stay.name))))


def peak(stays: Sequence[Stay], amounts: Sequence[int]) -> Peak:
    """The most of these amounts, one for each stay, that there is at once, and from when on."""
    changes = [(stay.begin, amount) for stay, amount in zip(stays, amounts, strict=True)]
    changes += [(stay.end, -amount) for stay, amount in zip(stays, amounts, strict=True)]
    best, now = Peak(0, None), 0
    for at, change in sorted(changes):  # what goes at the same moment goes first
        now += change
        if now > best.most:
            best = Peak(now, at)
    return best
