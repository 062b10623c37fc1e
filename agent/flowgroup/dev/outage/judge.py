"""What the API has of the runs, against what they said: values only."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

AS_IT_SHOULD = ("Scheduled", "Pending", "Running", "Completed")
_OTHERS_OWN = ("Late", "Submitting")  # said by the server of a run that has waited, and by Prefect's worker
_WAITS = (
    "InfrastructurePending",
    "WaitingForInfrastructure",
)  # a claimed run's, with the reason why it waits: each once
_HELD = "held for at most "


class Told(NamedTuple):
    """
    What the API has of one run: its log in the order in which the API took it, its states oldest first, its tasks' states.
    `lines` and `tasks_wanted` are how many there should be.
    """

    log: Sequence[str]
    states: Sequence[str]
    tasks: Sequence[str]
    lines: int
    tasks_wanted: int


class Judged(NamedTuple):
    """What is wrong; the longest that the runs' own calls were held, if they asked (seconds); states that are odd."""

    wrong: Counter[str]
    held_s: float | None
    odd: list[str]


def judged(runs: Iterable[Told]) -> Judged:
    wrong: Counter[str] = Counter()
    held: list[float] = []
    odd: list[str] = []
    for run in runs:
        wrong += _wrong(run)
        odd += [] if _is_as_it_should(run.states) else [" → ".join(run.states)]
        held += [said for line in run.log if (said := _held(line)) is not None]
    return Judged(+wrong, max(held, default=None), odd)


def _wrong(run: Told) -> Counter[str]:
    numbers = [number for line in run.log if (number := number_of(line)) is not None]
    seen = Counter(numbers)
    ended = [state for state in run.tasks if state == "COMPLETED"]
    return Counter(
        {
            "lines lost": run.lines - len(seen.keys() & set(range(run.lines))),
            "lines doubled": seen.total() - len(seen),
            "lines out of order": _out_of_order(numbers),
            "runs not Completed": int(not run.states or run.states[-1] != "Completed"),
            "states not as they should be": int(not _is_as_it_should(run.states)),
            "tasks lost": max(0, run.tasks_wanted - len(ended)),
            "tasks too many": max(0, len(run.tasks) - run.tasks_wanted),
        }
    )


def _is_as_it_should(states: Sequence[str]) -> bool:
    own = [state for state in states if state not in _OTHERS_OWN]
    while len(own) > len(AS_IT_SHOULD) and own[2] in _WAITS and own[2] not in own[3:]:
        del own[2]
    return tuple(own) == AS_IT_SHOULD


def number_of(line: str) -> int | None:
    """Of a numbered line."""
    before, found, _ = line.partition(" printed at ")
    return int(before.removeprefix("line ")) if found and before.startswith("line ") else None


def busiest(calls_at: Iterable[float], since: float, seconds: float) -> int:
    """The most calls within any one second of the span, by whole seconds from its beginning."""
    counts = Counter(int(at - since) for at in calls_at if since <= at < since + seconds)
    return max(counts.values(), default=0)


def _out_of_order(numbers: Sequence[int]) -> int:
    """How many lines came after one that was said later."""
    highest, count = -1, 0
    for number in numbers:
        count += number < highest
        highest = max(highest, number)
    return count


def _held(line: str) -> float | None:
    return float(line.removeprefix(_HELD).partition(" ")[0]) if line.startswith(_HELD) else None


def without_zeros(wrong: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in wrong.items()) or "nothing"


def entries_in_order(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The messages of log entries, as the API took them: equal moments, as of one call, by the entries' own time."""
    return [
        str(entry["message"]) for entry in sorted(entries, key=lambda one: (one.get("created") or "", one["timestamp"]))
    ]
