"""A run whose time is known starts at it, on a cluster that was not there before. By the API's own record."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.real.stack import Stack, wait_for

pytestmark = [pytest.mark.real, pytest.mark.timed]
_AHEAD_S = 60.0  # as long as a cluster may be made ahead
_LATE_AT_MOST_S = 5.0  # so much only because tests share few cores with others


def test_a_scheduled_run_of_a_group_without_a_cluster_starts_on_time_and_never_before(whole: Stack) -> None:
    deployment = whole.deploy("lab.py:lab", "on-time", "--worker-processes", "3")
    before = set(whole.clusters())
    due_at = datetime.now(UTC) + timedelta(seconds=_AHEAD_S)
    run = scheduled(whole, deployment, due_at)
    assert whole.wait(run)["state_name"] == "Completed"

    running = moment(next(state for state in whole.history(run) if state["type"] == "RUNNING")["timestamp"])
    assert due_at <= running <= due_at + timedelta(seconds=_LATE_AT_MOST_S)
    cluster = whole.cluster_of(run)
    assert cluster not in before
    (warmed,) = [event for event in whole.events("cluster_prewarm") if event["cluster"] == cluster]
    assert warmed["run"] == run
    (placed,) = [event for event in whole.events("run_placed") if event["run"] == run]
    assert moment(placed["timestamp"]) < due_at, "the cluster was ready before the run's time"


def test_a_scheduled_run_that_is_deleted_leaves_no_cluster_waiting_for_it(whole: Stack) -> None:
    deployment = whole.deploy("lab.py:lab", "deleted", "--worker-processes", "4", "--idle-timeout-s", "1")
    due_at = datetime.now(UTC) + timedelta(seconds=55)
    run = scheduled(whole, deployment, due_at)

    def warmed() -> list[str]:
        return [event["cluster"] for event in whole.events("cluster_prewarm") if event["run"] == run]

    (cluster,) = wait_for(warmed, "a cluster is made for it", timeout_s=60.0)
    assert whole.api.delete(f"/flow_runs/{run}").is_success
    wait_for(lambda: cluster not in whole.clusters(), "its cluster is gone", timeout_s=60.0)


def scheduled(whole: Stack, deployment: str, due_at: datetime) -> str:
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due_at.isoformat()}}
    body = {"parameters": {"what": "prints", "with_": {"lines": 1}}, "state": state}
    answer = whole.api.post(f"/deployments/{deployment}/create_flow_run", json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
