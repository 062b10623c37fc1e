"""The cases on Kubernetes. Pods of clusters are on nodes whose clocks are taken to agree with the API server's."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.boot import FIRST_TASK, stages
from flowgroup.dev.bench.cases.bursts import burst
from flowgroup.dev.bench.cases.starts import lateness, one, pause, singles
from flowgroup.dev.bench.figures import Figure, at_least, at_most
from flowgroup.dev.bench.pods import AHEAD, COLD, first_line
from flowgroup.dev.bench.sides import Bench, Side
from flowgroup.errors import Permanent

_DUE_S, _BETWEEN_S = 120.0, 20.0
_GONE_S, _LOOK_S = 120.0, 1.0
_COLD_TIMEOUT_S = 180.0
_REASON = 300
_BURST_TARGETS = {"burst: runs a minute": (at_least(10, "ratio"),), "burst: HTTP calls a run": (at_most(5),)}


def warm(bench: Bench, side: Side) -> Iterator[Figure]:
    """One run of an empty flow at a time; ours on a cluster that is there."""
    one(bench, side.deployments["empty"])
    targets = (at_most(0.4), at_least(20, "ratio"))
    yield from singles(bench, side.deployments["empty"], "ad-hoc", targets, (), count=side.size.singles)


def many(bench: Bench, side: Side) -> Iterator[Figure]:
    """The burst, with what is to be reached here."""
    for figure in burst(bench, side):
        yield replace(figure, targets=_BURST_TARGETS.get(figure.what, ()))


def first_task(bench: Bench, side: Side) -> Iterator[Figure]:
    """From a run's creation to the beginning of its first task on Dask."""
    _first_task_s(bench, side.deployments["asks"])
    took = []
    for _ in range(side.size.singles):
        pause()
        took.append(_first_task_s(bench, side.deployments["asks"]))
    yield Figure("warm: created → first task on Dask", "s", took, (at_most(0.5),))


def from_nothing(bench: Bench, side: Side) -> Iterator[Figure]:
    """The same, each with a cluster that has to be made, one after the other. A run that fails counts as one that failed."""
    steps: dict[str, list[float]] = defaultdict(list)
    failed: Counter[str] = Counter()
    names = sorted(name for name in side.deployments if name.startswith(COLD))
    others = _pods(side)
    for name in names:
        _wait_for(side, others)
        try:
            run, at = _first_task(bench, side.deployments[name])
        except Permanent as exc:
            failed[str(exc)[:_REASON]] += 1
            continue
        for step, took_s in _steps(side, run, at).items():
            steps[step].append(took_s)
    parts = {step: median(took) for step, took in steps.items()}
    yield Figure("no cluster: created → first task on Dask", "s", steps[FIRST_TASK], (at_most(12),), parts=parts)
    share = 100 * failed.total() / len(names)
    yield Figure("no cluster: runs that failed", "%", [share], (at_most(0),), parts=failed)


def ahead(bench: Bench, side: Side) -> Iterator[Figure]:
    """Runs made two minutes before their moment, with no cluster there."""
    first = time.time() + _DUE_S
    names = sorted(name for name in side.deployments if name.startswith(AHEAD))
    due = [(side.deployments[name], first + number * _BETWEEN_S) for number, name in enumerate(names)]
    yield Figure("scheduled ahead, no cluster yet: late by", "s", lateness(bench, due), (at_most(0.5, "max"),))


def _pods(side: Side) -> int:
    return len(side.there.listed("pods", side.there.jobs)) if side.there else 0


def _wait_for(side: Side, pods: int) -> None:
    """Until the cluster before is gone: to take it away costs the two cores as much as to make one."""
    deadline = time.monotonic() + _GONE_S
    while _pods(side) > pods:
        if time.monotonic() > deadline:
            raise Permanent(f"the cluster of the run before is there after {_GONE_S:.0f} s")
        time.sleep(_LOOK_S)


def _steps(side: Side, run: str, at: dict[str, float]) -> dict[str, float]:
    """Seconds from a run's creation to each step: of ours what the daemon knows, of the others what the API knows."""
    if side.there is not None:
        return stages(side.there, run, at)
    known = {"Pending": "Pending", "Running": "Running", FIRST_TASK: "first task"}
    return {step: at[name] - at["created"] for step, name in known.items() if name in at}


def _first_task(bench: Bench, deployment: str) -> tuple[str, dict[str, float]]:
    """A run, and its moments."""
    run = runs.start(bench.api, deployment)
    runs.wait(bench.api, [run], _COLD_TIMEOUT_S)
    return run, {
        **runs.moments(bench.api, run),
        "first task": float(first_line(bench, run, "first task at ")),
    }


def _first_task_s(bench: Bench, deployment: str) -> float:
    _, at = _first_task(bench, deployment)
    return at["first task"] - at["created"]
