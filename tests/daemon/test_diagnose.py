"""From a child's end to the run's outcome: golden words."""

import pytest

from flowgroup.daemon.diagnose import outcome_of
from flowgroup.model.orders import Exit
from flowgroup.model.runs import Cancelled, Crashed, Reported


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Exit(signal=9), ["SIGKILL", "memory", "memory_limit_bytes", "had not begun"]),
        (Exit(signal=11, reached_user_code=True), ["SIGSEGV", "native code"]),
        (Exit(signal=15), ["SIGTERM"]),
        (Exit(signal=6), ["SIGABRT"]),
        (Exit(signal=7), ["SIGBUS"]),
        (Exit(signal=63), ["signal 63"]),
        (Exit(signal=36), ["ended by"]),
        (Exit(code=0, reached_user_code=True), ["exit code 0", "os._exit"]),
        (Exit(code=1), ["exit code 1", "last lines"]),
        (Exit(code=127), ["exit code 127", "not found"]),
        (Exit(code=77), ["exit code 77"]),
        (Exit(), ["nothing is known"]),
        (Exit(code=1, cause="The bundle's hash is wrong: deploy again."), ["hash is wrong", "had not begun"]),
    ],
)
def test_a_crash_names_the_cause_and_the_remedy(ended: Exit, words: list[str]) -> None:
    outcome = outcome_of(ended, cancelled=False)
    assert isinstance(outcome, Crashed)
    for word in words:
        assert word in outcome.reason


def test_the_last_lines_come_along_but_not_without_end() -> None:
    tail = "\n".join(f"line {number} " + "x" * 500 for number in range(100))
    outcome = outcome_of(Exit(code=1, tail=tail, reached_user_code=True), cancelled=False)
    assert isinstance(outcome, Crashed)
    assert "line 99" in outcome.reason
    assert len(outcome.reason) < 2500
    blank = outcome_of(Exit(code=1, tail="\n \n", reached_user_code=True), cancelled=False)
    assert isinstance(blank, Crashed)
    assert "output:" not in blank.reason


def test_what_the_engine_has_reported_stands_even_if_we_had_asked_it_to_end() -> None:
    assert outcome_of(Exit(code=0, reported=True), cancelled=True) == Reported()
    assert outcome_of(Exit(signal=9, reported=True), cancelled=False) == Reported()


def test_a_run_that_we_had_to_end_is_cancelled_and_not_crashed() -> None:
    assert isinstance(outcome_of(Exit(signal=9), cancelled=True), Cancelled)
