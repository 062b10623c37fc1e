"""Each change to Prefect's engine: what it saves, and that the run is the same. Against a real server, a process each."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from flowgroup.driver import lean

pytestmark = pytest.mark.real


@pytest.fixture
def lab(prefect_api: str, tmp_path: Any) -> Any:
    def run(*changes: str, flow: str = "plain", **more: Any) -> Any:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        env = {
            **clean,
            "PREFECT_API_URL": prefect_api,
            "PREFECT_HOME": str(tmp_path),
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
            "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.driver.lean_lab", json.dumps({"changes": changes, "flow": flow, **more})],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def count(seen: Any, method: str, part: str) -> int:
    return sum(call.startswith(method) and part in call for call in seen["calls"])


def names(seen: Any) -> list[str]:
    return [name for name, _ in seen["states"]]


def test_every_change_fits_the_installed_prefect() -> None:
    assert lean.fitting() == lean.CHANGES.all()


def test_prefect_as_it_is_makes_the_calls_that_the_changes_save(lab: Any) -> None:
    seen = lab()
    assert count(seen, "GET", "/admin/storage") >= 1
    assert count(seen, "GET", "/flow_runs/") >= 2
    assert count(seen, "PATCH", "/flow_runs/") == 1
    assert seen["sockets"] == 1
    assert seen["contexts"] > 1
    assert seen["run_count"] == 1
    assert not [item for item in seen["shipped"] if "beat" in item or "call" in item]


def test_one_tls_context_serves_all_clients(lab: Any) -> None:
    seen = lab("one_tls_context")
    assert seen["contexts"] <= 1
    assert names(seen)[-1] == "Completed"


@pytest.mark.parametrize("flow", ["plain", "coroutine"])
def test_the_default_storage_is_not_asked_for(lab: Any, flow: str) -> None:
    seen = lab("default_storage_is_known", flow=flow)
    assert count(seen, "GET", "/admin/storage") == 0
    assert names(seen)[-1] == "Completed"


@pytest.mark.parametrize("flow", ["plain", "coroutine"])
def test_the_run_is_not_read_again(lab: Any, flow: str) -> None:
    stock, seen = lab(flow=flow), lab("run_is_known", flow=flow)
    assert count(seen, "GET", "/flow_runs/") == count(stock, "GET", "/flow_runs/") - 1
    assert seen["run_count"] == stock["run_count"] == 1
    assert names(seen)[-1] == "Completed"


def test_a_retry_counts_the_runs_without_reading_them(lab: Any) -> None:
    seen = lab("run_is_known", flow="retried")
    assert seen["run_count"] == seen["run"]["run_count"] == 2
    assert names(seen)[-3:] == ["AwaitingRetry", "Running", "Completed"] or names(seen)[-1] == "Completed"


@pytest.mark.parametrize("flow", ["plain", "coroutine"])
def test_the_flows_version_is_told_later(lab: Any, flow: str) -> None:
    seen = lab("version_is_told_later", flow=flow)
    assert count(seen, "PATCH", "/flow_runs/") == 0
    [(method, path, body)] = [item["call"] for item in seen["shipped"] if "call" in item]
    assert (method, path) == ("PATCH", f"/flow_runs/{seen['run']['id']}")
    assert list(body) == ["flow_version"]


def test_a_flow_with_retries_tells_them_before_it_runs(lab: Any) -> None:
    seen = lab("version_is_told_later", flow="retried")
    assert count(seen, "PATCH", "/flow_runs/") == 1
    assert seen["run"]["empirical_policy"]["retries"] == 1
    assert seen["run"]["run_count"] == 2
    assert names(seen)[-1] == "Completed"


def related(seen: Any, name: str) -> set[tuple[str, ...]]:
    [event] = [item["event"] for item in seen["shipped"] if item.get("event", {}).get("event") == name]
    return {
        (one["prefect.resource.role"], one["prefect.resource.id"].split(".")[1], one.get("prefect.resource.name", ""))
        for one in event["related"]
    }


def test_events_are_related_to_what_prefect_would_relate_them_to(lab: Any) -> None:
    stock = lab(flow="emits")
    [event] = [item["event"] for item in stock["shipped"] if item.get("event", {}).get("event") == "lab.event"]
    around = [one for one in event["related"] if one["prefect.resource.role"] != "flow-run"]
    seen = lab("events_leave_at_once", flow="emits", related=around)
    for name in ("lab.event", "lab.inner"):
        assert {one[:2] for one in related(seen, name)} == {one[:2] for one in related(stock, name)}
    assert ("flow", "flow", "inner") in related(seen, "lab.inner")
    assert count(seen, "GET", "/flows/") == 0


def test_suspension_opens_no_socket_and_still_suspends(lab: Any) -> None:
    seen = lab("suspension_comes_by_the_leash", flow="waits")
    assert seen["sockets"] == 0
    assert seen["answer"] == "SetStateStatus.ACCEPT"
    assert "went_on" not in seen
    assert names(seen)[-1] == "Suspended"


def test_the_desk_is_asked_to_send_heartbeats_while_the_flow_runs(lab: Any) -> None:
    seen = lab("desk_sends_heartbeats")
    (run, event, every_s), (_, end, _) = [item["beat"] for item in seen["shipped"] if "beat" in item]
    assert run == seen["run"]["id"]
    assert event["event"] == "prefect.flow-run.heartbeat"
    assert event["resource"]["prefect.resource.id"] == f"prefect.flow-run.{run}"
    assert end is None
    assert every_s == 180


@pytest.mark.parametrize("flow", ["plain", "coroutine"])
def test_a_run_that_is_early_waits_where_only_running_is_left(lab: Any, flow: str) -> None:
    seen = lab("running_at_its_time", flow=flow, ahead_s=2.0)
    [running] = [moment for name, moment in seen["states"] if name == "Running"]
    assert running >= seen["start_at"]


def test_all_changes_together_leave_two_calls(lab: Any) -> None:
    seen = lab(*[change.__name__ for change in lean.CHANGES.all()])
    assert [call.rpartition("/")[2] for call in seen["calls"]] == ["set_state", "set_state"]
    assert names(seen)[-1] == "Completed"
