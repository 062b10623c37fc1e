"""Children that are not forked: for an environment that only a new process can take, and where forks are not safe."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.real.stack import Stack, stack

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def spawned(prefect_api: str) -> Iterator[Stack]:
    env = {"FLOWGROUP_DRIVER_START_METHOD": "spawn"}
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "spawned", env=env) as made,
    ):
        yield made


def start_with(whole: Stack, deployment: str, env: dict[str, str], **parameters: Any) -> str:
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "job_variables": {"env": env}}
    return str(whole.api.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status().json()["id"])


def test_a_run_is_given_its_own_environment_on_the_shared_cluster(whole: Stack, plain: str) -> None:
    run = start_with(whole, plain, {"LAB_MARK": "of this run"}, what="surroundings")
    other = whole.start(plain, what="surroundings")
    whole.wait(run)
    whole.wait(other)
    assert "'mark': 'of this run'" in whole.wait_log(run, "found {")["message"]
    assert "'mark': None" in whole.wait_log(other, "found {")["message"]
    assert whole.cluster_of(run) == whole.cluster_of(other)


def test_what_python_reads_only_at_its_start_makes_the_child_a_new_process(whole: Stack, plain: str) -> None:
    run = start_with(whole, plain, {"PYTHONHASHSEED": "7"}, what="hash_seed")
    assert whole.wait(run)["state_name"] == "Completed"
    with_it = subprocess.run(
        [sys.executable, "-c", "print(hash('flowgroup'))"],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    whole.wait_log(run, f"found ['7', {with_it.stdout.strip()}]")
    assert whole.cluster_of(run) == whole.cluster_of(whole_run(whole, plain))


def whole_run(whole: Stack, plain: str) -> str:
    run = whole.start(plain, what="sleeps", with_={"seconds": 0})
    whole.wait(run)
    return run


def test_spawned_children_complete_crash_and_are_cancelled(spawned: Stack) -> None:
    plain = spawned.deploy("lab.py:lab", "spawned")
    good = spawned.start(plain, what="prints", with_={"lines": 2})
    bad = spawned.start(plain, what="exits", with_={"code": 5})
    long = spawned.start(plain, what="sleeps", with_={"seconds": 60})
    assert spawned.wait(good)["state_name"] == "Completed"
    spawned.wait_log(good, "line 1")
    assert spawned.wait(bad)["state_name"] == "Crashed"
    assert "exit code 5" in spawned.message(bad)
    spawned.wait(long, "Running")
    spawned.cancel(long)
    assert spawned.wait(long, timeout_s=20)["state_name"] == "Cancelled"
