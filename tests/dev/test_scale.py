"""How `make scale` judges what it measured, and the page that it writes."""

from tests.scale.page import Stage, page

_MIB = 1024 * 1024


def test_what_is_within_the_limits_is_not_said() -> None:
    assert Stage("burst", 1000, took_s=120.0, cores=0.99, rss_bytes=400 * _MIB).missed() == []
    assert Stage("idle", 0, took_s=600.0, cores=0.1, rss_bytes=90 * _MIB).missed() == []


def test_each_limit_is_judged_by_itself() -> None:
    missed = Stage("burst", 1000, took_s=121.0, cores=1.0, rss_bytes=401 * _MIB).missed()
    assert missed == [
        "submitted after 121 s instead of 120",
        "1.00 cores instead of less than 1",
        "401 MiB instead of 400",
    ]


def test_the_page_has_each_stage_and_what_is_missed() -> None:
    said = page([Stage("burst", 1000, 42.4, 0.5, 300 * _MIB)], ["something"], clusters=1000, groups=10_000, workers=2)
    assert "| burst | 1000 | 42 | 0.50 | 300 |" in said
    assert "10,000 flow groups" in said and "4,000 pods" in said
    assert "- something." in said
