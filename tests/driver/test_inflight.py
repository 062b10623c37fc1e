"""A storm of tasks is bounded, and the bound never holds a flow up for ever."""

import threading

import pytest

from flowgroup.driver import inflight
from flowgroup.driver.inflight import InFlight
from tests.servers import wait_until


class Tasks:
    """What was submitted and is not done."""

    def __init__(self) -> None:
        self.pending = 0
        self.most = 0

    def count(self) -> int:
        return self.pending

    def submit(self) -> None:
        self.pending += 1
        self.most = max(self.most, self.pending)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "_LOOK_S", 0.001)


def storm(bound: InFlight, tasks: Tasks, count: int) -> threading.Thread:
    def submit() -> None:
        for _ in range(count):
            bound.wait_for_room()
            tasks.submit()

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    return thread


def test_submitting_waits_while_too_many_are_on_their_way() -> None:
    tasks = Tasks()
    thread = storm(InFlight(tasks.count, limit=5, patience_s=60), tasks, 50)
    for ended in range(46):
        wait_until(lambda: tasks.pending == 5, timeout_s=10, what=f"the bound is reached again after {ended}")
        tasks.pending -= 1
    thread.join(10)
    assert not thread.is_alive()
    assert tasks.most == 5


def test_a_few_tasks_are_not_even_counted() -> None:
    def count() -> int:
        raise AssertionError("counted")

    bound = InFlight(count, limit=5)
    for _ in range(5):
        bound.wait_for_room()


def test_where_no_task_ends_the_bound_gives_way() -> None:
    """They may be waiting for what the flow does after it has submitted them all."""
    tasks = Tasks()
    bound = InFlight(tasks.count, limit=5, patience_s=0.01)
    thread = storm(bound, tasks, 50)
    thread.join(10)
    assert not thread.is_alive()
    assert tasks.pending == 50
    assert bound.limit >= 50


def test_many_threads_share_one_bound() -> None:
    tasks = Tasks()
    bound = InFlight(tasks.count, limit=5, patience_s=60)
    threads = [storm(bound, tasks, 4) for _ in range(4)]
    while any(thread.is_alive() for thread in threads):
        wait_until(
            lambda: tasks.pending > 0 or not any(thread.is_alive() for thread in threads), timeout_s=10, what="more"
        )
        tasks.pending = max(tasks.pending - 1, 0)
    assert tasks.most <= 5 + 3  # between the look and the submit of each of the other threads
