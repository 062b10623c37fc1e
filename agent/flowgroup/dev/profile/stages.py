"""From what the API, the daemon and the driver noted about a run to the time between its stages: values only."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

API, DAEMON, DRIVER = "API", "daemon", "driver"


@dataclass(frozen=True, slots=True)
class Stage:
    """`mark` is the event in a log, or the name of the run's state at the API."""

    who: str
    mark: str
    meaning: str


STAGES = (
    Stage(API, "created", "the API has made the run"),
    Stage(DAEMON, "event_heard", "Prefect's event about it has come"),
    Stage(DAEMON, "run_due", "the API, asked what is due, has named it"),
    Stage(DAEMON, "run_claimed", "the API has taken our claim: it is Pending, and ours"),
    Stage(DAEMON, "run_placed", "its cluster is there and ready"),
    Stage(DAEMON, "run_sent", "the relay knows the attempt, the driver has the order"),
    Stage(DRIVER, "child_started", "its process was forked"),
    Stage(API, "Running", "its code is loaded, the engine has begun"),
    Stage(API, "Completed", "the flow has returned, the engine has said so"),
    Stage(DRIVER, "child_ended", "its process has ended"),
    Stage(DAEMON, "run_ended", "nothing is left to do for it"),
)
Moments = Mapping[str, float]
"""When a run passed each mark, in seconds."""


@dataclass(frozen=True, slots=True)
class Step:
    """Medians over the runs, in milliseconds: since the stage before that was seen, and since the run was made."""

    stage: Stage
    since_before_ms: float
    since_created_ms: float


def noted(log: Iterable[str], run: str) -> dict[str, float]:
    """When a log of JSON lines first named each event about the run. Other lines are nothing to us."""
    found: dict[str, float] = {}
    for line in log:
        if run not in line:
            continue
        try:
            entry = json.loads(line)
            found.setdefault(str(entry["event"]), datetime.fromisoformat(entry["timestamp"]).timestamp())
        except (ValueError, KeyError, TypeError):
            continue
    return found


def steps(runs: list[Moments]) -> list[Step]:
    """Stages that no run passed (another version's, or a stream that was away) are left out."""
    found, before = [], "created"
    for stage in STAGES:
        both = [run for run in runs if stage.mark in run and before in run]
        if not both:
            continue
        took = statistics.median(run[stage.mark] - run[before] for run in both)
        since = statistics.median(run[stage.mark] - run["created"] for run in both)
        found.append(Step(stage, 1000 * took, 1000 * since))
        before = stage.mark
    return found


def table(found: list[Step]) -> str:
    """In Markdown."""
    head = "| stage | who says so | since the one before | since it was made |\n|---|---|---:|---:|"
    rows = [
        f"| `{step.stage.mark}`: {step.stage.meaning} | {step.stage.who} "
        f"| {step.since_before_ms:.0f} ms | {step.since_created_ms:.0f} ms |"
        for step in found
    ]
    return "\n".join([head, *rows])
