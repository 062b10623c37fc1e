"""From a printed line, and from a task's end, until anybody can read it at the API."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.figures import Figure, at_most
from flowgroup.dev.bench.sides import Bench, Side

_SOON = (at_most(1), at_most(3, "max"))
_LOOK_S = 0.05
_QUIET_S = 2.0
_LATE_S = 10.0
_CHATTERERS, _LINES_PER_S = 10, 100
_SAMPLE_S = 0.25
_PAGE = 200


def heard(bench: Bench, side: Side) -> Iterator[Figure]:
    """One run that prints now and then."""
    run = runs.start(bench.api, side.deployments["speaks"])
    lines: dict[str, float] = {}
    tasks: dict[str, float] = {}
    ended_at: float | None = None
    while ended_at is None or time.monotonic() - ended_at < _QUIET_S or len(tasks) < len(lines):
        _look_for_lines(bench, run, lines)
        _look_for_tasks(bench, run, tasks)
        if ended_at is None and runs.count(bench.api, [run], ("COMPLETED",)):
            ended_at = time.monotonic()
        if ended_at is not None and time.monotonic() - ended_at > _LATE_S:
            break
        time.sleep(_LOOK_S)
    yield Figure("line printed → readable", "s", list(lines.values()), _SOON)
    yield Figure("task Completed → readable", "s", list(tasks.values()))


def chatter(bench: Bench, side: Side) -> Iterator[Figure]:
    """
    Ten runs that print a hundred lines a second each.

    How old the newest line of a run is, looked at one run after the other: at any moment that is how long the run's next
    line has been waiting, give or take the time between two lines.
    """
    seconds = side.size.spoken_s
    say = {"lines_per_s": _LINES_PER_S, "seconds": seconds}
    asked = runs.make(bench.api, side.deployments["chatty"], _CHATTERERS, **say)
    runs.wait_running(bench.api, asked)
    ages = _ages(bench, asked, seconds)
    runs.wait(bench.api, asked)
    wrong = _wrong(bench, asked, round(_LINES_PER_S * seconds))
    yield Figure(f"{_CHATTERERS * _LINES_PER_S} lines/s: printed → readable", "s", ages, _SOON)
    parts = {name: float(number) for name, number in wrong.items()}
    yield Figure("lines lost or doubled", "", [float(wrong.total())], (at_most(0),), parts=parts)


def _ages(bench: Bench, asked: list[str], seconds: float) -> list[float]:
    """While all of them print. A run's first second is its start, which is not what is asked for here."""
    running_at = max(runs.moments(bench.api, run)["Running"] for run in asked)
    first_ends_at = min(runs.moments(bench.api, run)["Running"] for run in asked) + seconds
    ages: list[float] = []
    for run in cycle(asked):
        time.sleep(_SAMPLE_S)
        if time.time() > first_ends_at:
            break
        newest = runs.lines(bench.api, [run], limit=1, newest=True)
        if newest and time.time() > running_at + 1 and (printed_at := _printed_at(newest[0]["message"])):
            ages.append(time.time() - printed_at)
    return ages
    return ages


def _wrong(bench: Bench, asked: list[str], expected: int) -> Counter[str]:
    """What did not arrive exactly once. Waits until as many are there as there should be, or no more come."""
    seen = _numbers(bench, asked)
    deadline = time.monotonic() + _LATE_S
    while any(len(seen[run]) < expected for run in asked) and time.monotonic() < deadline:
        time.sleep(1)
        seen = _numbers(bench, asked)
    lost = sum(len(set(range(expected)) - set(seen[run])) for run in asked)
    doubled = sum(sum(seen[run].values()) - len(seen[run]) for run in asked)
    return +Counter({"lost": lost, "doubled": doubled})


def _numbers(bench: Bench, asked: list[str]) -> dict[str, Counter[int]]:
    """How often each line of each run is there."""
    seen: dict[str, Counter[int]] = {run: Counter() for run in asked}
    for run in asked:
        ids: set[str] = set()
        offset = 0
        while page := runs.lines(bench.api, [run], offset=offset, limit=_PAGE):
            offset += len(page)
            new = [
                entry for entry in page if entry["id"] not in ids
            ]  # equal timestamps may come again on the next page
            ids |= {entry["id"] for entry in new}
            seen[run].update(int(entry["message"].split()[1]) for entry in new if _printed_at(entry["message"]))
    return seen


def _printed_at(message: str) -> float | None:
    before, found, moment = message.rpartition(" printed at ")
    return float(moment) if found and before.startswith("line ") else None


def _look_for_lines(bench: Bench, run: str, seen: dict[str, float]) -> None:
    for entry in runs.lines(bench.api, [run]):
        if entry["message"].startswith("printed at ") and entry["id"] not in seen:
            seen[entry["id"]] = time.time() - float(entry["message"].rpartition(" ")[2])


def _look_for_tasks(bench: Bench, run: str, seen: dict[str, float]) -> None:
    for task in runs.post(bench.api, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}}):
        if (task["state"] or {}).get("type") == "COMPLETED" and task["id"] not in seen:
            seen[task["id"]] = time.time() - runs.seconds(task["state"]["timestamp"])
