"""What an operator sees of a real daemon, and what becomes of what they ask for."""

import json
from typing import Any

import pytest

from tests.real.stack import Stack, wait_for

pytestmark = pytest.mark.real


def _told(whole: Stack, *command: str) -> Any:
    done = whole.shell(*command, "--json", env={"FLOWGROUP_HOME": str(whole.home), "FLOWGROUP_POOL": whole.pool})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _cluster(whole: Stack, name: str) -> dict[str, Any] | None:
    clusters = _told(whole, "cluster", "list")
    return next((one for one in clusters if one["name"] == name), None)


def test_status_logs_and_a_cluster_that_is_reset_under_a_run(whole: Stack, plain: str) -> None:
    gate = whole.home / "reset"
    run = whole.start(plain, what="waits_for", with_={"file": str(gate)})
    whole.wait(run, "Running")
    name = whole.cluster_of(run)
    wait_for(lambda: _run(_told(whole, "status"), run)["phase"] == "running", "the daemon says that it runs", 30)
    assert _run(_told(whole, "status"), run)["cluster"] == name
    shown = _told(whole, "cluster", "show", name)
    assert run in shown["leases"]
    assert shown["ready"]
    asked = _told(whole, "cluster", "reset", name)
    assert run in asked["runs"]
    wait_for(lambda: (found := _cluster(whole, name)) and found["draining"], "the daemon has heard it", 30)
    driver = whole.processes(name)["driver"]
    next_one = whole.start(plain, what="sleeps", with_={"seconds": 0})
    gate.touch()
    assert whole.wait(run, timeout_s=120)["state_name"] == "Completed", whole.message(run)
    assert whole.wait(next_one, timeout_s=120)["state_name"] == "Completed", whole.message(next_one)
    assert whole.cluster_of(next_one) == name
    assert whole.processes(name)["driver"] != driver, "the next run was on the old cluster"
    found = _cluster(whole, name)
    assert found
    assert not found["draining"], "the new cluster is asked to go as the old one was"
    assert "found" in whole.shell("logs", run).stdout
    processes = {one["process"] for one in _told(whole, "logs", "--cluster", name)}
    assert "driver.log" in processes


def test_a_group_is_scaled_within_its_numbers_and_the_plan_knows_what_comes(whole: Stack) -> None:
    growing = whole.deploy("lab.py:lab", "asked", "--workers-max", "2", "--idle-timeout-s", "600", "--interval", "3600")
    run = whole.start(growing, what="sleeps", with_={"seconds": 45})
    whole.wait(run, "Running", timeout_s=120)
    name = whole.cluster_of(run)
    env = {"FLOWGROUP_HOME": str(whole.home), "FLOWGROUP_POOL": whole.pool}
    refused = whole.shell("cluster", "scale", name, "--workers", "9", env=env)
    assert refused.returncode == 2
    assert "0 to 2" in refused.stderr
    _told(whole, "cluster", "scale", name, "--workers", "2")
    wait_for(lambda: {"worker-0", "worker-1"} <= whole.processes(name).keys(), "two workers without any work", 60)
    wait_for(lambda: _told(whole, "cluster", "show", name)["workers"] == 2, "the daemon counts both", 60)
    plan = wait_for(lambda: _planned(whole, "lab/asked"), "Prefect has scheduled it", 60)
    assert {one["cluster"] for one in plan} == {name}, "the plan has another generation than the daemon"
    assert whole.wait(run, timeout_s=120)["state_name"] == "Completed", whole.message(run)


def _run(standing: dict[str, Any], run: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in standing["runs"] if one["id"] == run)
    return found


def _planned(whole: Stack, deployment: str) -> list[dict[str, Any]]:
    return [one for one in _told(whole, "plan")["runs"] if one["deployment"] == deployment]


def test_doctor_finds_nothing_wrong_with_a_daemon_that_serves(whole: Stack) -> None:
    env = {"FLOWGROUP_HOME": str(whole.home), "FLOWGROUP_STORE": f"file://{whole.home}/store"}
    done = whole.shell("doctor", "--pool", whole.pool, "--json", env=env)
    checks = json.loads(done.stdout)["checks"]
    assert len(checks) >= 20
    checks = [one for one in checks if one["name"] not in {"disk", "clusters"}]  # this machine's, and other tests'
    assert {one["name"]: one["detail"] for one in checks if not one["ok"]} == {}
