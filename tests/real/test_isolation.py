"""Runs of one flow share a cluster and nothing else."""

import os
import time
from pathlib import Path

import pytest

from tests.real.stack import Stack, wait_for

pytestmark = pytest.mark.real


def test_a_run_has_a_folder_an_environment_and_an_empty_stdin_of_its_own(whole: Stack, plain: str) -> None:
    one = whole.start(plain, what="marks", with_={"mark": "one"})
    two = whole.start(plain, what="marks", with_={"mark": "two"})
    for run, mark in ((one, "one"), (two, "two")):
        assert whole.wait(run)["state_name"] == "Completed"
        whole.wait_log(run, f"found ['{mark}', '{mark}']")
    run = whole.start(plain, what="surroundings")
    whole.wait(run)
    found = whole.wait_log(run, "found {")["message"]
    assert "'stdin': ''" in found
    assert "'mark': None" in found
    assert whole.cluster_of(one) == whole.cluster_of(two)


@pytest.mark.parametrize(
    ("what", "with_", "said"),
    [
        ("segfault", {}, "SIGSEGV"),
        ("exits", {"code": 3}, "3"),
        ("exits", {"code": 0}, "without"),
    ],
)
def test_a_child_that_dies_is_a_crash_within_two_seconds_and_touches_no_other(
    whole: Stack, plain: str, what: str, with_: dict[str, int], said: str
) -> None:
    other = whole.start(plain, what="sleeps", with_={"seconds": 4})
    whole.wait(other, "Running")
    run = whole.start(plain, what=what, with_=with_)
    ended = whole.wait(run)
    assert ended["state_name"] == "Crashed"
    assert said in whole.message(run), whole.message(run)
    assert whole.wait(other)["state_name"] == "Completed"


def test_the_crash_message_has_the_last_lines_and_a_remedy(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="exits", with_={"code": 7})
    whole.wait(run, "Crashed")
    assert "the last line before the end" in whole.message(run)


def test_a_run_above_its_memory_limit_is_ended_with_that_reason(whole: Stack) -> None:
    deployment = whole.deploy("lab.py:lab", "small")
    whole.api.patch(
        f"/deployments/{deployment}", json={"job_variables": _with_limit(whole, deployment)}
    ).raise_for_status()
    run = whole.start(deployment, what="eats", with_={"mebibytes": 600})
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "memory" in whole.message(run)


def _with_limit(whole: Stack, deployment: str) -> dict[str, object]:
    variables: dict[str, object] = whole.api.get(f"/deployments/{deployment}").json()["job_variables"]
    return {**variables, "memory_limit_bytes": 300 << 20}


def test_what_a_run_started_ends_with_it(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="leaves_children")
    assert whole.wait(run)["state_name"] == "Completed"
    pids = [int(pid) for pid in whole.wait_log(run, "found [")["message"].strip("found []").split(",")]
    wait_for(lambda: not any(_alive(pid) for pid in pids), f"{pids} are gone")


def test_nothing_is_left_of_a_run(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="sleeps", with_={"seconds": 0})
    whole.wait(run)
    runs = whole.home / whole.pool / "clusters" / whole.cluster_of(run) / "runs"
    wait_for(lambda: not any(_is_of(path, run, whole) for path in runs.iterdir()), "the working folder is gone")


def _is_of(path: Path, run: str, whole: Stack) -> bool:
    return any(event["attempt"] == path.name for event in whole.events("run_sent") if event["run"] == run)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timed
@pytest.mark.parametrize(
    ("what", "with_", "within_s"),
    [
        ("sleeps", {"seconds": 60}, 5.0),
        ("parent_of_sleeper", {"seconds": 60}, 5.0),
        ("ignores_sigterm", {}, 15.0),
        ("endless_c", {}, 15.0),
    ],
)
def test_a_cancelled_run_ends_in_time(
    whole: Stack, plain: str, what: str, with_: dict[str, float], within_s: float
) -> None:
    run = whole.start(plain, what=what, with_=with_)
    whole.wait(run, "Running")
    if what == "parent_of_sleeper":
        wait_for(lambda: [sub for sub in whole.sub_flows(run) if sub["state_name"] == "Running"], "the sub-flow runs")
    asked = time.monotonic()
    whole.cancel(run)
    assert whole.wait(run, timeout_s=within_s + 5)["state_name"] == "Cancelled"
    took = time.monotonic() - asked
    assert took < within_s, f"{took:.1f} s"
    assert all(sub["state_type"] == "CANCELLED" for sub in whole.sub_flows(run))
    assert os.getpid()
