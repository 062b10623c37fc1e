"""One suite of cases on two task runners: Prefect's own DaskTaskRunner on the group's workers, and ours."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.real.stack import Stack, wait_for

pytestmark = pytest.mark.real

IDLE_S = {"stock": "600", "ours": "601"}  # other options, other cluster
EXPECTED: dict[str, dict[str, Any]] = {
    "about": {
        "one at a time": True,
        "name": "named-7",
        "tags": ["outer"],
        "hooks": ["named Completed", "renamed Failed"],
    },
    "futures": {
        "result": 2,
        "again": 2,
        "state": ["Completed", "Failed", "Task run encountered an exception ValueError: on purpose"],
        "raised": ["ValueError", "on purpose"],
        "not raised": ["ValueError", "on purpose"],
        "called back": [True],
        "wait": [4, 0],
        "as completed": [1, 2, 3, 4],
        "too slow": "TimeoutError",
        "return state": ["Completed", "Failed"],
        "id": True,
    },
    "maps": {
        "one": [2, 3, 4],
        "two": [11, 22, 33],
        "unmapped": [6, 7],
        "unmapped list": [7, 8],
        "of futures": [3, 4, 5],
        "lengths": "MappingLengthMismatch",
        "nothing": "MappingMissingIterable",
        "a failure": ["ValueError", "a"],
        "states": ["Failed", "Failed"],
    },
    "passes": {
        "list": 5,
        "dict": 5,
        "chain": 3,
        "state": 4,
        "waited": 8,
        "not ready": ["NotReady", "PENDING"],
        "upstream failed": "NotReady",
    },
    "ends": {
        "retried": 3,
        "retried if": [["ValueError", "again 4"], ["ValueError", "never 1"]],
        "timeout": ["TimedOut", "TimedOut"],
        "none": None,
        "generator": [0, 1, 2],
        "says completed": "said by the task",
        "odd exception": "TypeError",
        "unpicklable": True,
    },
    "nested": {"called": 3, "submitted": 7, "flow in a task": 2, "flow in the flow": 2},
    "data": {
        "a changed global": ["first", "second"],
        "large": [10 * 1024 * 1024, 10 * 1024 * 1024],
        "no such resource": "TimeoutError",
        "priority": 2,
        "closure": [2, 3],
        "elsewhere": True,
    },
    "awaits": {"several": [1, 2, 3], "direct": 6, "sync": 2, "mapped": [2, 3], "name": True},
    "caches": {
        "same": True,
        "names": ["Completed", "Cached"],
        "refreshed": True,
        "refreshed by a setting": True,
        "persisted": ["kept", "ResultRecord", True],
    },
    "rolls_back": {"raised": ["ValueError", "after it was written"], "left": False},
}


@pytest.fixture(scope="module", params=["stock", "ours"])
def runner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def both(whole: Stack, runner: str) -> str:
    """
    The deployment of the flow `both`: each runner has a cluster of its own, of two workers of two threads.

    On a cluster the first run with the stock runner is the only one whose tasks' logs and events arrive: later ones use
    the same service in the worker, with the first run's token. So `about` comes first.
    """
    whole.api.post("/concurrency_limits/", json={"tag": "flowgroup-both-one", "concurrency_limit": 1})
    return whole.deploy(
        "both.py:both", runner, "--workers", "2", "--worker-threads", "2", "--idle-timeout-s", IDLE_S[runner]
    )


def parameters(what: str, runner: str, folder: Path) -> dict[str, Any]:
    needs = {
        "caches": {"salt": uuid.uuid4().hex},
        "rolls_back": {"folder": str(folder)},
        "about": {"folder": str(folder)},
        "hang": {"folder": str(folder)},
        "lends": {"count": 8},
    }
    return {"what": what, "stock": runner == "stock", "with_": needs.get(what, {})}


@pytest.mark.parametrize("what", EXPECTED)
def test_both_runners_do_the_same(whole: Stack, both: str, runner: str, what: str, tmp_path: Path) -> None:
    run = whole.start(both, **parameters(what, runner, tmp_path))
    assert whole.wait(run, timeout_s=200)["state_name"] == "Completed", whole.message(run)
    found = eval(whole.wait_log(run, "found {")["message"].removeprefix("found "))
    assert found == EXPECTED[what]
    if what == "about":
        _is_told(whole, run)


def _is_told(whole: Stack, run: str) -> None:
    """Tasks' names, states and log lines are at the API, under the sub-flow that the case is."""
    (case,) = whole.sub_flows(run)
    inside = case["id"]

    def tasks() -> dict[str, str]:
        return {task["name"]: task["id"] for task in whole.tasks(inside) if task["state_type"] == "COMPLETED"}

    wait_for(lambda: "named-7" in tasks(), "the task's name and state")
    for text in ("printed by the task", "logged by the task"):
        assert whole.wait_log(inside, text)["task_run_id"] == tasks()["named-7"]
    failed = wait_for(
        lambda: [task for task in whole.tasks(inside) if task["state_type"] == "FAILED"], "the failed task"
    )
    assert failed[0]["name"].startswith("renamed")


def test_a_cancelled_flow_does_not_wait_for_its_tasks(whole: Stack, both: str, runner: str, tmp_path: Path) -> None:
    run = whole.start(both, **parameters("hang", runner, tmp_path))
    wait_for(lambda: list(tmp_path.glob("hangs-*")), "a task hangs", timeout_s=60)
    whole.cancel(run)
    assert whole.wait(run, timeout_s=60)["state_name"] == "Cancelled"
    (tmp_path / "over").touch()


def test_tasks_that_wait_for_tasks_lend_their_threads(whole: Stack, dask_for_both: str, tmp_path: Path) -> None:
    """Prefect's runner would wait for ever here."""
    run = whole.start(dask_for_both, **parameters("lends", "ours", tmp_path))
    assert whole.wait(run, timeout_s=120)["state_name"] == "Completed", whole.message(run)
    whole.wait_log(run, f"found {[number + 1 + 5 for number in range(8)]}")


def test_annotations_of_parameters_survive_the_way(whole: Stack, dask_for_both: str, tmp_path: Path) -> None:
    """With Prefect's runner their values arrive inside of a tuple, because they are pickled as one."""
    run = whole.start(dask_for_both, **parameters("annotated", "ours", tmp_path))
    assert whole.wait(run, timeout_s=120)["state_name"] == "Completed", whole.message(run)
    found = eval(whole.wait_log(run, "found {")["message"].removeprefix("found "))
    assert found == {"allowed": ["ValueError", "on purpose"], "quoted": 3, "with a future": ["int", "2"]}


@pytest.fixture(scope="module")
def dask_for_both(whole: Stack) -> str:
    return whole.deploy("both.py:both", "lends", "--workers", "2")
