"""The profile `strict` with real flows: what a run may not do is refused, and all else works as it does without it."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.real.needs import OF_TASKS_ON_DASK, provide
from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real
_NAMED = {
    "FLOWGROUP_RELAY_PROFILE": "strict",
    "FLOWGROUP_RELAY_VARIABLES": "flowgroup_te*",
    "FLOWGROUP_RELAY_BLOCKS": "secret/flowgroup-test",
    "FLOWGROUP_RELAY_DEPLOYMENTS": "lab/named-*",
}


@pytest.fixture(scope="module")
def strict(prefect_api: str) -> Iterator[Stack]:
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "strict", env=_NAMED) as made,
    ):
        provide(made.api)
        yield made


@pytest.fixture(scope="module")
def named(strict: Stack) -> str:
    """A deployment that runs may start."""
    return strict.deploy("lab.py:lab", "named-one", "--workers", "2", "--worker-threads", "2")


def test_tasks_on_dask_with_what_is_named_and_sub_flows_work(strict: Stack, named: str) -> None:
    run = strict.start(named, what="tasks_on_dask", with_={"salt": uuid.uuid4().hex})
    assert strict.wait(run, timeout_s=150)["state_name"] == "Completed", strict.message(run)
    found = eval(strict.wait_log(run, "found {")["message"].removeprefix("found "))
    assert found.pop("own") not in found.pop("pids")
    assert found == OF_TASKS_ON_DASK
    [inner] = strict.sub_flows(run)
    assert inner["state_name"] == "Completed"
    wait_for(
        lambda: any(task["name"].startswith("later") for task in strict.tasks(inner["id"])), "its task is recorded"
    )


def test_a_run_may_start_a_deployment_that_is_named_and_wait_for_it(strict: Stack, named: str) -> None:
    run = strict.start(named, what="deploys", with_={"deployment": "lab/named-one"})
    assert strict.wait(run)["state_name"] == "Completed", strict.message(run)
    strict.wait_log(run, "found 'Completed'")


@pytest.mark.parametrize("what", ["pauses", "suspends"])
def test_a_run_that_waits_for_a_person_goes_on(strict: Stack, named: str, what: str) -> None:
    run = strict.start(named, what=what)
    strict.wait(run, "PAUSED")
    if what == "suspends":
        wait_for(lambda: [e for e in strict.events("run_ended") if e["run"] == run], "the suspended attempt ends")
    assert strict.api.post(f"/flow_runs/{run}/resume", json={}).is_success
    assert strict.wait(run)["state_name"] == "Completed", strict.message(run)


def test_what_is_not_named_is_refused_and_says_the_setting(strict: Stack, named: str) -> None:
    assert strict.api.post("/variables/", json={"name": "others_word", "value": 1}).status_code in (201, 409)
    other = strict.deploy("lab.py:lab", "other")
    stranger = strict.start(other, what="sleeps", with_={"seconds": 0})
    refused = {
        strict.start(named, what="reads_variable", with_={"name": "others_word"}): "FLOWGROUP_RELAY_VARIABLES",
        strict.start(named, what="reads_secret", with_={"name": "others-secret"}): "FLOWGROUP_RELAY_BLOCKS",
        strict.start(named, what="deploys", with_={"deployment": "lab/other"}): "FLOWGROUP_RELAY_DEPLOYMENTS",
        strict.start(named, what="reads_run", with_={"id": stranger}): "does not belong to this run",
    }
    for run, reason in refused.items():
        assert strict.wait(run)["state_name"] == "Failed"
        assert reason in strict.message(run), strict.message(run)
