"""How many workers are wanted, and which of them may go."""

import pytest

from flowgroup.driver.wanted import Group, Load, Worker, group_of, may_go, wanted

CPU = Group("default", "c-default-worker-", least=0, most=10, threads=2)
GPU = Group("gpu", "c-gpu-worker-", least=0, most=3, threads=2, resources={"GPU": 1})
GROUPS = [CPU, GPU]


def worker(name: str, group: str = "default", idle_s: float | None = 100.0, held: int = 0, limit: int = 100) -> Worker:
    return Worker(name, group, idle_s, held, limit)


def load(tasks: float, each_s: float, **needs: float) -> Load:
    return Load(tuple(sorted(needs.items())), tasks, tasks * each_s)


@pytest.mark.parametrize(
    ("loads", "default", "gpu"),
    [
        ([], 0, 0),
        ([load(1, 0.001)], 1, 0),
        ([load(8, 0.5)], 1, 0),
        ([load(40, 1)], 4, 0),
        ([load(3, 3600)], 2, 0),
        ([load(1000, 60)], 10, 0),
        ([load(1, 0.001, GPU=1)], 0, 1),
        ([load(2, 60, GPU=1)], 0, 2),
        ([load(9, 60, GPU=1), load(2, 60)], 1, 3),
        ([load(9, 60, TPU=1)], 0, 0),
        ([load(9, 60, GPU=2)], 0, 0),
    ],
)
def test_a_group_wants_what_its_tasks_keep_busy_and_no_more_than_there_are_tasks(
    loads: list[Load], default: int, gpu: int
) -> None:
    assert wanted(GROUPS, loads, [], target_s=5.0) == {"default": default, "gpu": gpu}


def test_what_is_wanted_stays_within_the_groups_numbers() -> None:
    group = Group("default", "w-", least=2, most=4)
    assert wanted([group], [], [], target_s=5.0) == {"default": 2}
    assert wanted([group], [load(100, 60)], [], target_s=5.0) == {"default": 4}


def test_tasks_that_ask_for_nothing_count_for_the_first_group_where_there_is_no_default_one() -> None:
    none = Group("default", "w-", least=0, most=0)
    assert wanted([none, GPU], [load(1, 1)], [], target_s=5.0) == {"default": 0, "gpu": 1}


def test_a_group_whose_memory_is_nearly_full_wants_more_workers() -> None:
    full = [worker("a", held=70), worker("b", held=60)]
    assert wanted(GROUPS, [], full, target_s=5.0)["default"] == 4


def test_idle_workers_of_that_group_go_those_with_the_least_data_first() -> None:
    workers = [
        worker("much", held=30),
        worker("little", held=1),
        worker("busy", idle_s=None),
        worker("fresh", idle_s=3.0),
        worker("none"),
        worker("gpu", "gpu"),
    ]
    assert may_go(CPU, 2, workers, idle_s=10.0, keeps_last=True) == ["none", "little", "much"]
    assert may_go(CPU, 4, workers, idle_s=10.0, keeps_last=True) == ["none"]
    assert may_go(CPU, 5, workers, idle_s=10.0, keeps_last=True) == []


def test_the_last_worker_stays_while_there_are_results() -> None:
    assert may_go(CPU, 0, [worker("a"), worker("b")], idle_s=10.0, keeps_last=True) == ["a"]
    assert may_go(CPU, 0, [worker("a"), worker("b")], idle_s=10.0, keeps_last=False) == ["a", "b"]


def test_no_worker_goes_whose_data_would_fill_the_others() -> None:
    workers = [worker("a", held=40), worker("b", held=40), worker("c", held=40)]
    assert may_go(CPU, 1, workers, idle_s=10.0, keeps_last=True) == []


def test_a_worker_belongs_to_the_group_with_the_longest_prefix() -> None:
    groups = [Group("default", "worker-", 0, 1), Group("gpu", "worker-gpu-", 0, 1)]
    assert [group_of(name, groups) for name in ("worker-1", "worker-gpu-1", "else")] == ["default", "gpu", None]
