"""How long a run takes to start: made by hand, scheduled, with and without a cluster that is there."""

import random
import statistics
import time
from collections.abc import Iterator

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.figures import Figure, Target, at_least, at_most
from flowgroup.dev.bench.sides import Asked, Bench, Side, deployed, other_daemon

_ON_TIME = (at_most(0.1), at_least(0, "min"))
_FIRST_DUE_S, _BETWEEN_S, _BETWEEN_OTHERS_S = 10.0, 1.5, 4.0
_COLD_DUE_S, _COLD_BETWEEN_S = 75.0, 6.0
_POLLED = "polled"
_PANDAS_RUNS = 8


def first_run(bench: Bench, side: Side) -> Iterator[Figure]:
    """With all that is made only once: a cluster on our side, nothing on the worker's."""
    yield Figure("first run: created → Completed", "s", [one(bench, side.deployments["empty"])["Completed"]])


def ad_hoc(bench: Bench, side: Side) -> Iterator[Figure]:
    """One run of an empty flow at a time."""
    yield from singles(
        bench,
        side.deployments["empty"],
        "ad-hoc",
        (at_most(0.25), at_least(30, "ratio")),
        (at_most(0.5),),
        count=side.size.singles,
    )


def ad_hoc_polled(bench: Bench, side: Side) -> Iterator[Figure]:
    """The same by a daemon that does not listen to the event stream."""
    with other_daemon(bench, _POLLED, {"FLOWGROUP_EVENTS": "false"}):
        deployment = deployed(bench, _POLLED, [Asked("polled", "empty.py:empty")])["polled"]
        one(bench, deployment)
        count = max(2, side.size.singles // 2)
        yield from singles(bench, deployment, "without events", (at_most(1.5),), (), count=count)


def scheduled(bench: Bench, side: Side) -> Iterator[Figure]:
    """Runs for moments to come; the cluster is warm."""
    one(bench, side.deployments["empty"])
    between_s = _BETWEEN_S if side.is_ours else _BETWEEN_OTHERS_S
    first = time.time() + _FIRST_DUE_S
    due = [first + number * between_s + random.uniform(0, 1) for number in range(side.size.scheduled)]  # noqa: S311
    late = lateness(bench, [(side.deployments["empty"], at) for at in due])
    yield Figure("scheduled: late by", "s", late, _ON_TIME)


def cold(bench: Bench, side: Side) -> Iterator[Figure]:
    """The same, each on a cluster of its own that is not there when the run is made."""
    names = sorted(name for name in side.deployments if name.startswith("cold-"))
    first = time.time() + _COLD_DUE_S
    due = [(side.deployments[name], first + number * _COLD_BETWEEN_S) for number, name in enumerate(names)]
    late = lateness(bench, due[: side.size.scheduled])
    yield Figure("scheduled, no cluster yet: late by", "s", late, _ON_TIME)


def pandas(bench: Bench, side: Side) -> Iterator[Figure]:
    """A flow that imports pandas beside one that does not, in turns, from the second run on."""
    slow, plain = [], []
    for name in ("frames", "empty"):
        one(bench, side.deployments[name])
    for _ in range(min(_PANDAS_RUNS, side.size.singles)):
        pause()
        slow.append(one(bench, side.deployments["frames"])["Running"])
        pause()
        plain.append(one(bench, side.deployments["empty"])["Running"])
    yield Figure("imports pandas: created → Running", "s", slow)
    yield Figure("beside it, empty: created → Running", "s", plain)
    with_it, without = statistics.median(slow), statistics.median(plain)
    yield Figure("pandas costs, times", "", [with_it / without], (at_most(1.2),))
    yield Figure("pandas costs, more", "s", [with_it - without], (at_most(0.05),))


def singles(
    bench: Bench, deployment: str, what: str, running: tuple[Target, ...], completed: tuple[Target, ...], *, count: int
) -> Iterator[Figure]:
    took = []
    for _ in range(count):
        pause()
        took.append(one(bench, deployment))
    yield Figure(f"{what}: created → Running", "s", [each["Running"] for each in took], running)
    yield Figure(f"{what}: created → Completed", "s", [each["Completed"] for each in took], completed)


def one(bench: Bench, deployment: str) -> dict[str, float]:
    """Seconds from a run's creation to each of its states."""
    run = runs.start(bench.api, deployment)
    runs.wait(bench.api, [run])
    at = runs.moments(bench.api, run)
    return {name: moment - at["created"] for name, moment in at.items()}


def lateness(bench: Bench, due: list[tuple[str, float]]) -> list[float]:
    """Make all these runs now; how long after its moment each was Running."""
    asked = [(runs.start(bench.api, deployment, due_at=at), at) for deployment, at in due]
    time.sleep(max(0.0, asked[-1][1] - time.time()))  # who waits for all asks nothing meanwhile
    runs.wait(bench.api, [run for run, _ in asked])
    return [runs.moments(bench.api, run)["Running"] - at for run, at in asked]


def pause() -> None:
    time.sleep(random.uniform(0, 2))  # noqa: S311
