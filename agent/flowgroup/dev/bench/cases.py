"""
The cases: one function each, from a side that is up to figures. Add a function and name it in `CASES`.

A pause of random length stands before each single run: a worker polls in a rhythm of its own.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.sides import Bench, Side

BURST = 10
_LOOK_S = 0.05
_QUIET_S = 2.0
_LATE_S = 10.0


@dataclass(frozen=True)
class Figure:
    """What was measured. Smaller is better, except where the unit is a rate."""

    what: str
    unit: str
    values: list[float]


Case = Callable[[Bench, Side], Iterator[Figure]]


def first_run(bench: Bench, side: Side) -> Iterator[Figure]:
    """With all that is made only once: a cluster on our side, nothing on the worker's."""
    run = runs.start(bench.api, side.deployments["empty"])
    runs.wait(bench.api, [run])
    at = runs.moments(bench.api, run)
    yield Figure("first run: created → Completed", "s", [at["Completed"] - at["created"]])


def ad_hoc(bench: Bench, side: Side) -> Iterator[Figure]:
    """One run of an empty flow at a time."""
    to_running, to_completed = [], []
    for _ in range(side.singles):
        _pause()
        run = runs.start(bench.api, side.deployments["empty"])
        runs.wait(bench.api, [run])
        at = runs.moments(bench.api, run)
        to_running.append(at["Running"] - at["created"])
        to_completed.append(at["Completed"] - at["created"])
    yield Figure("ad-hoc: created → Running", "s", to_running)
    yield Figure("ad-hoc: created → Completed", "s", to_completed)


def burst(bench: Bench, side: Side) -> Iterator[Figure]:
    """Many runs at once, and how often the side called the API meanwhile: its polls and heartbeats are in it."""
    _pause()
    before = _calls(bench)
    asked = [runs.start(bench.api, side.deployments["empty"]) for _ in range(BURST)]
    runs.wait(bench.api, asked)
    time.sleep(_QUIET_S)  # what is said about a run after its end
    calls = _calls(bench) - before
    at = [runs.moments(bench.api, run) for run in asked]
    took_s = max(one["Completed"] for one in at) - min(one["created"] for one in at)
    yield Figure(f"burst of {BURST}: runs a minute", "/min", [60 * BURST / took_s])
    yield Figure(f"burst of {BURST}: HTTP calls a run", "", [calls / BURST])


def heard(bench: Bench, side: Side) -> Iterator[Figure]:
    """From a printed line, and from a task's end, until anybody can read it at the API."""
    run = runs.start(bench.api, side.deployments["speaks"])
    lines: dict[str, float] = {}
    tasks: dict[str, float] = {}
    ended_at: float | None = None
    while ended_at is None or time.monotonic() - ended_at < _QUIET_S or len(tasks) < len(lines):
        _look_for_lines(bench, run, lines)
        _look_for_tasks(bench, run, tasks)
        if ended_at is None and runs.ended(bench.api, run):
            ended_at = time.monotonic()
        if ended_at is not None and time.monotonic() - ended_at > _LATE_S:
            break
        time.sleep(_LOOK_S)
    yield Figure("line printed → readable", "s", list(lines.values()))
    yield Figure("task Completed → readable", "s", list(tasks.values()))


CASES: tuple[Case, ...] = (first_run, ad_hoc, burst, heard)


def _pause() -> None:
    time.sleep(random.uniform(0, 2))  # noqa: S311


def _look_for_lines(bench: Bench, run: str, seen: dict[str, float]) -> None:
    body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
    for entry in runs.post(bench.api, "/logs/filter", body):
        if entry["message"].startswith("printed at ") and entry["id"] not in seen:
            seen[entry["id"]] = time.time() - float(entry["message"].rpartition(" ")[2])


def _look_for_tasks(bench: Bench, run: str, seen: dict[str, float]) -> None:
    body = {"flow_runs": {"id": {"any_": [run]}}}
    for task in runs.post(bench.api, "/task_runs/filter", body):
        if (task["state"] or {}).get("type") == "COMPLETED" and task["id"] not in seen:
            seen[task["id"]] = time.time() - runs.seconds(task["state"]["timestamp"])


def _calls(bench: Bench) -> int:
    """HTTP calls in the server's access log that are not the benchmark's own. Websockets are not counted."""
    lines = bench.server_log.read_text(errors="replace").splitlines()
    return sum(" HTTP/1.1" in line and f"{runs.OURS}=" not in line for line in lines)
