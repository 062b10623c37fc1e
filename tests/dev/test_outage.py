"""How `make outage` judges what the API has, and the page that it writes."""

from collections import Counter
from typing import Any

from flowgroup.dev.outage.judge import AS_IT_SHOULD, Told, busiest, entries_in_order, judged, number_of
from flowgroup.dev.outage.report import OURS, THEIRS, missed, page


def said(*numbers: int) -> list[str]:
    return [f"line {number} printed at 12.5" for number in numbers]


def told(log: list[str], states: tuple[str, ...] = AS_IT_SHOULD, tasks: int = 1) -> Told:
    return Told(log, states, ["COMPLETED"] * tasks, lines=4, tasks_wanted=1)


def test_what_is_as_it_should_be_is_not_wrong() -> None:
    result = judged([told([*said(0, 1, 2, 3), "held for at most 8.125 s, answers {}", "another line"])])
    assert result == (Counter(), 8.125, [])


def test_lines_that_are_lost_doubled_or_out_of_order_are_counted_each() -> None:
    assert judged([told(said(0, 1, 3))]).wrong == {"lines lost": 1}
    assert judged([told(said(0, 1, 1, 2, 3))]).wrong == {"lines doubled": 1}
    assert judged([told(said(0, 2, 1, 3)), told(said(3, 0, 1, 2))]).wrong == {"lines out of order": 4}
    assert judged([told([])]).wrong == {"lines lost": 4}
    assert judged([told([])]).held_s is None


def test_states_and_tasks_are_judged_too() -> None:
    crashed = judged([told(said(0, 1, 2, 3), ("Scheduled", "Pending", "Running", "Crashed"))])
    assert crashed.wrong == {"runs not Completed": 1, "states not as they should be": 1}
    assert crashed.odd == ["Scheduled → Pending → Running → Crashed"]
    again = judged([told(said(0, 1, 2, 3), ("Scheduled", "Pending", "Running", "Running", "Completed"))])
    assert again.wrong == {"states not as they should be": 1}
    waits = ("InfrastructurePending", "WaitingForInfrastructure")
    waited = [
        told(said(0, 1, 2, 3), ("Scheduled", "Pending", *waits[:some], "Running", "Completed")) for some in (1, 2)
    ]
    assert judged(waited).wrong == {}
    for odd in (("Pending", waits[0], waits[0], "Running"), ("Pending", "Running", waits[0]), ("Pending", waits[0])):
        assert judged([told(said(0, 1, 2, 3), ("Scheduled", *odd, "Completed"))]).wrong == {
            "states not as they should be": 1
        }
    assert judged([told(said(0, 1, 2, 3), tasks=0)]).wrong == {"tasks lost": 1}
    assert judged([told(said(0, 1, 2, 3), tasks=2)]).wrong == {"tasks too many": 1}


def test_entries_are_in_the_order_in_which_the_api_took_them_and_within_a_call_by_their_time() -> None:
    entries = [
        {"message": "c", "timestamp": "2026-01-01T00:00:01Z", "created": "2026-01-01T00:01:00Z"},
        {"message": "b", "timestamp": "2026-01-01T00:00:03Z", "created": "2026-01-01T00:00:09Z"},
        {"message": "a", "timestamp": "2026-01-01T00:00:02Z", "created": "2026-01-01T00:00:09Z"},
    ]
    assert entries_in_order(entries) == ["a", "b", "c"]


def test_numbers_are_read_from_numbered_lines_alone() -> None:
    assert [number_of(line) for line in ("line 7 printed at 1.5", "task printed at 1", "line 7")] == [7, None, None]


def test_the_busiest_second_is_within_the_span() -> None:
    assert busiest([0.9, 1.0, 1.2, 1.9, 2.5, 9.0], since=1.0, seconds=2.0) == 3
    assert busiest([], since=1.0, seconds=2.0) == 0


def row(**other: Any) -> dict[str, Any]:
    whole = {"side": OURS, "case": "500", "seconds": 45, "runs": 7, "lines": 2600, "wrong": {}, "odd": [], "exits": []}
    figures = {"held_s": 8.1, "drained_s": 12.0, "busiest_before": 9, "busiest_meanwhile": 5, "busiest_after": 20}
    return {**whole, **figures, "trouble": "", "at": "2026-11-28T14:00:00+00:00", **other}


def test_what_is_missed_is_named() -> None:
    assert missed(row()) == []
    assert missed(row(wrong={"lines lost": 3})) == ["3 lines lost"]
    assert missed(row(exits=["relay"])) == ["the relay has ended"]
    assert missed(row(drained_s=61.0)) == missed(row(drained_s=None)) == ["not drained within 60 s"]
    assert missed(row(held_s=10.2)) == ["a call was held for 10.20 s"]
    assert missed(row(held_s=None)) == []
    assert missed(row(trouble="it did not begin")) == ["it did not begin"]


def test_the_page_has_the_last_figures_of_each_case_and_what_they_miss() -> None:
    rows = [row(wrong={"lines lost": 3}), row(), row(case="429", held_s=11.0), row(side=THEIRS, drained_s=None)]
    written = page(rows, ["500", "black hole"])
    assert "| 500 | 45 | 7 | 2600 | 0 | 0 | 0 | as they should be | 8.1 s | 12.0 s | 9, 5, 20 | 2026-11-28 |" in written
    assert "- 429, 45 s: a call was held for 11.00 s." in written
    assert "3 lines lost" not in written
    assert "- black hole: not measured yet." in written
    assert "- 500: not measured" not in written
    assert written.index("| 500 |") < written.index(THEIRS) < written.rindex("not in two minutes")
