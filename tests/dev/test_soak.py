"""How `make soak` judges whether something grows, and the page that it writes."""

import random
from collections.abc import Callable

import pytest

from flowgroup.dev.soak.__main__ import page
from flowgroup.dev.soak.slopes import Sample, growing, grown

_MIB = 1024 * 1024


def _looks(
    rss: Callable[[int], float] = lambda _: 70.0,
    files: Callable[[int], float] = lambda _: 20,
    tasks: Callable[[int], float] | None = lambda _: 30,
) -> list[Sample]:
    """Half an hour and many looks; each figure by the number of the look."""
    return [
        Sample(10.0 * n, int(rss(n) * _MIB), int(files(n)), 8, None if tasks is None else int(tasks(n)))
        for n in range(180)
    ]


def test_what_stays_does_not_grow() -> None:
    seen = grown(_looks())
    assert growing(seen) == []
    assert seen["MiB"].slope_per_h == 0


def test_what_goes_up_and_down_does_not_grow() -> None:
    chance = random.Random(0)
    seen = grown(_looks(rss=lambda _: 70 + chance.uniform(-1, 1), files=lambda _: 20 + chance.randrange(6)))
    assert growing(seen) == []


def test_a_peak_is_no_growth() -> None:
    assert growing(grown(_looks(rss=lambda n: 120 if 90 < n < 100 else 70))) == []


@pytest.mark.parametrize("lost_per_look", [0.005, 0.05])
def test_a_leak_of_memory_is_seen(lost_per_look: float) -> None:
    chance = random.Random(0)
    seen = grown(_looks(rss=lambda n: 70 + lost_per_look * n + chance.uniform(-0.3, 0.3)))
    assert growing(seen) == ["MiB"]
    assert seen["MiB"].grown == pytest.approx(lost_per_look * 179, rel=0.15)


def test_a_file_and_a_task_left_now_and_then_are_seen() -> None:
    seen = grown(_looks(files=lambda n: 20 + n // 60, tasks=lambda n: 30 + n // 20))
    assert growing(seen) == ["files", "tasks"]


def test_what_is_not_told_is_not_judged() -> None:
    assert "tasks" not in grown(_looks(tasks=None))
    assert grown(_looks()[:3]) == {}


def test_the_page_has_each_figure_and_what_is_missed() -> None:
    seen = {"daemon": grown(_looks(files=lambda n: 20 + n // 10))}
    said = page(seen, {"empty": 1800, "sleeps": 60}, 1800, ["files of the daemon grow"])
    assert "1800 of `empty`, 60 of `sleeps`" in said
    assert "| daemon | MiB | 70.0 | 70.0 | +0.00 | +0.00 |" in said
    assert "- files of the daemon grow." in said
    assert "Nothing, this time" in page(seen, {}, 1800, [])
