"""Tasks on the group's Dask workers, which have no credential."""

import uuid

import pytest

from tests.real.needs import OF_TASKS_ON_DASK, provide
from tests.real.stack import Stack, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def _what_tasks_need(whole: Stack) -> None:
    provide(whole.api)


def test_everything_that_a_task_may_do_works_on_workers_without_a_credential(whole: Stack, dask: str) -> None:
    run = whole.start(dask, what="tasks_on_dask", with_={"salt": uuid.uuid4().hex})
    assert whole.wait(run, timeout_s=150)["state_name"] == "Completed", whole.message(run)
    found = eval(whole.wait_log(run, "found {")["message"].removeprefix("found "))
    workers = {pid for pid in found.pop("pids")}
    assert found.pop("own") not in workers
    assert found == OF_TASKS_ON_DASK
    whole.wait_log(run, "computed")
    assert len([entry for entry in whole.logs(run) if entry["message"].startswith("computed")]) == 1


def test_a_tasks_logs_and_states_stand_under_its_task_run(whole: Stack, dask: str) -> None:
    run = whole.start(dask, what="tasks_on_dask", with_={"salt": uuid.uuid4().hex})
    whole.wait(run, timeout_s=150)
    entry = whole.wait_log(run, "task 3 is in process")
    names = wait_for(
        lambda: [task["name"] for task in whole.tasks(run) if task["id"] == entry["task_run_id"]],
        "its task is recorded",
    )
    assert names[0].startswith("where")
    wait_for(
        lambda: all(task["state_type"] in {"COMPLETED", "FAILED"} for task in whole.tasks(run)), "all tasks have ended"
    )


def test_a_dask_task_runner_that_names_no_cluster_means_the_groups(whole: Stack) -> None:
    deployment = whole.deploy("runners.py:bare", "d", "--workers", "1", "--worker-threads", "2")
    run = whole.start(deployment)
    assert whole.wait(run)["state_name"] == "Completed"
    worker, named, own = eval(whole.wait_log(run, "pids (")["message"].removeprefix("pids "))
    assert worker != own  # on the group's worker
    assert named == own  # max_workers=2 was said on purpose: threads of the flow's own process


def test_a_flow_uses_dask_itself(whole: Stack, dask: str) -> None:
    run = whole.start(dask, what="dask_itself")
    assert whole.wait(run)["state_name"] == "Completed"
    whole.wait_log(run, "found 42")
