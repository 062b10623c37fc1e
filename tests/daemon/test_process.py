"""The daemon as a process: its threads."""

import threading

from flowgroup.daemon.process import threads


def test_all_threads_are_there_from_the_start_and_work() -> None:
    before = threading.active_count()
    with threads(3) as pool:
        assert threading.active_count() == before + 3
        assert list(pool.map(len, ["a", "bc"] * 20)) == [1, 2] * 20
        assert threading.active_count() == before + 3
    assert threading.active_count() == before
