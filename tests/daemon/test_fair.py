"""Which due runs go first."""

from datetime import UTC, datetime, timedelta

import pytest

from flowgroup.daemon.fair import in_turns
from flowgroup.daemon.late import too_late
from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.runs import DueRun, Skipped

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def runs(said: str) -> list[DueRun]:
    """`a1@q b2@q`: a flow and a number, and the queue."""
    parts = [word.split("@") for word in said.split()]
    return [DueRun(RunId(name), name, FlowId(name[0]), None, NOON, {}, work_queue_id=queue) for name, queue in parts]


@pytest.mark.parametrize(
    ("offered", "under_way", "expected"),
    [
        ("a1@q a2@q a3@q b1@q", {}, "a1 b1 a2 a3"),
        ("a1@q a2@q b1@q b2@q c1@q", {}, "a1 b1 c1 a2 b2"),
        ("a1@q a2@q b1@q", {"a": 5}, "b1 a1 a2"),
        ("a1@q a2@q b1@q b2@q", {"a": 1}, "b1 a1 b2 a2"),
        ("a1@first a2@first b1@second", {"a": 9}, "a1 a2 b1"),
        ("a1@x a2@y a3@x b1@y", {}, "a1 b1 a2 a3"),
        ("", {}, ""),
    ],
)
def test_each_flow_has_its_turn_among_runs_of_one_priority(
    offered: str, under_way: dict[FlowId, int], expected: str
) -> None:
    assert [run.id for run in in_turns(runs(offered), under_way)] == expected.split()


def due(late_s: float, state: str = "Scheduled", run_count: int = 0, put_off_s: float = 0.0) -> DueRun:
    for_ = NOON - timedelta(seconds=late_s)
    at = for_ + timedelta(seconds=put_off_s)
    return DueRun(RunId("r"), "r", FlowId("f"), None, at, {}, scheduled_for=for_, state_name=state, run_count=run_count)


@pytest.mark.parametrize(
    ("run", "skip_s", "is_skipped"),
    [
        (due(61), 60.0, True),
        (due(60), 60.0, False),
        (due(1), 0.0, True),
        (due(-2), 0.0, False),
        (due(1e6), None, False),
        (due(61, "Late"), 60.0, True),
        (due(61, "AwaitingConcurrencySlot", put_off_s=60.0), 60.0, True),
        (due(61, "AwaitingInfrastructure", put_off_s=60.0), 60.0, True),
        (due(61, "AwaitingRetry"), 60.0, False),
        (due(61, "Resuming"), 60.0, False),
        (due(61, "Late", run_count=1), 60.0, False),
    ],
)
def test_a_run_is_late_by_the_time_that_it_was_scheduled_for_at_first(
    run: DueRun, skip_s: float | None, is_skipped: bool
) -> None:
    skipped = too_late(run, skip_s, NOON)
    assert isinstance(skipped, Skipped) is is_skipped
