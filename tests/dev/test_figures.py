"""What is measured, what it is to reach, and the table that says whether it does."""

import json

import pytest

from flowgroup.dev.bench.figures import OURS, THEIRS, Figure, Row, Target, at_least, at_most, judged, row
from flowgroup.dev.bench.table import table


def both(mine: Figure, theirs: Figure | None = None) -> list[Row]:
    return judged([row(OURS, "case", mine), *([row(THEIRS, "case", theirs)] if theirs else [])])


@pytest.mark.parametrize(
    ("target", "values", "met"),
    [
        (at_most(0.25), [0.1, 0.2, 9.0], True),
        (at_most(0.25), [0.1, 0.3, 0.4], False),
        (at_most(3, "max"), [1.0, 3.0], True),
        (at_most(3, "max"), [1.0, 3.1], False),
        (at_least(0, "min"), [0.0, 1.0], True),
        (at_least(0, "min"), [-0.001, 1.0], False),
        (at_least(5), [4.0, 5.0, 6.0], True),
    ],
)
def test_a_target_looks_at_the_median_the_largest_or_the_smallest_value(
    target: Target, values: list[float], met: bool
) -> None:
    [judgement] = both(Figure("late", "s", values, (target,)))
    assert judgement["met"] is met
    assert judgement["missed"] == ([] if met else [str(target)])


@pytest.mark.parametrize(
    ("unit", "mine", "theirs", "met"),
    [("s", 0.1, 3.0, True), ("s", 0.2, 3.0, False), ("/min", 600.0, 20.0, True), ("/min", 300.0, 20.0, False)],
)
def test_a_ratio_is_how_many_times_better_we_are_than_the_process_worker(
    unit: str, mine: float, theirs: float, met: bool
) -> None:
    target = at_least(30, "ratio")
    ours, other = both(Figure("one", unit, [mine], (target,)), Figure("one", unit, [theirs], (target,)))
    assert ours["met"] is met
    assert other["met"] is None  # it has nothing to reach
    assert other["target"] is None


def test_a_ratio_to_a_side_that_was_not_measured_is_open_but_what_is_missed_already_is_missed() -> None:
    ratio = at_least(30, "ratio")
    assert both(Figure("one", "s", [0.1], (at_most(1), ratio)))[0]["met"] is None
    assert both(Figure("one", "s", [2.0], (at_most(1), ratio)))[0]["met"] is False


def test_another_side_is_no_stand_in_for_the_process_worker() -> None:
    figure = Figure("one", "s", [0.1], (at_least(30, "ratio"),))
    ours, _ = judged([row(OURS, "x", figure), row(f"{THEIRS}, poll 1 s", "x", Figure("one", "s", [9.0]))])
    assert ours["met"] is None


def test_a_figure_without_values_is_a_trouble() -> None:
    [judgement] = both(Figure("heard", "s", [], (at_most(1),)))
    assert judgement["trouble"] == "nothing was seen"
    assert judgement["met"] is None


def test_a_line_is_json_and_says_what_was_to_be_reached() -> None:
    [judgement] = both(Figure("late", "s", [0.1, 0.3], (at_most(0.1), at_least(0, "min")), {"a": 1.0}))
    written = json.loads(json.dumps(judgement))
    assert written["target"] == "median ≤ 0.1, min ≥ 0"
    assert (written["met"], written["missed"]) == (False, ["median ≤ 0.1"])
    assert (written["median"], written["max"], written["min"]) == (0.2, 0.3, 0.1)
    assert written["parts"] == {"a": 1.0}


def test_the_table_says_met_missed_and_open() -> None:
    fast = Figure("ad-hoc", "s", [0.1, 0.2], (at_most(0.25),))
    slow = Figure("burst", "/min", [50.0], (at_least(20, "ratio"),), {"POST /logs/": 2.5})
    late = Figure("late", "s", [1.0], (at_most(0.1), at_least(0, "min")))
    rows = [row(OURS, "x", figure) for figure in (fast, slow, late)]
    rows += [row(THEIRS, "x", Figure("ad-hoc", "s", [6.0]))]
    rows += [row(THEIRS, "burst", None, trouble="it broke")]
    rows[0]["database_locked"] = True
    shown = table(judged(rows))
    assert table(judged([*rows[3:], *rows[:3]])) == shown  # ours stand first, whoever was measured first
    lines = {line[:6].strip(): line for line in shown.splitlines()}
    assert "0.15 s (0.20)" in lines["ad-hoc"]
    assert "40.0 x" in lines["ad-hoc"]
    assert lines["ad-hoc"].endswith("median ≤ 0.25: met")
    assert lines["burst"].endswith("≥ 20 x: open: the other side was not measured")
    assert lines["late"].endswith("median ≤ 0.1, min ≥ 0: MISSED (median ≤ 0.1)")
    assert "      2.50  POST /logs/" in shown
    assert "process worker, burst: it broke" in shown
    assert "flowgroup, x: the server's database was locked" in shown
    assert shown.endswith("1 figures reach their target, 1 miss it")
