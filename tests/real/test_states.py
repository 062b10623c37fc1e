"""How runs end, as Prefect's users expect: by the API's own record."""

import pytest

from tests.real.stack import Stack, wait_for

pytestmark = pytest.mark.real


def test_a_run_completes_and_its_log_is_there(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="prints", with_={"lines": 3})
    assert whole.wait(run)["state_name"] == "Completed"
    assert whole.wait_log(run, "line 2")["level"] == 20
    assert whole.states(run) == ["Scheduled", "Pending", "Running", "Completed"]
    whole.wait_log(run, "hook on_completion saw Completed")


def test_a_flow_that_raises_fails_with_its_words(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="fails")
    assert whole.wait(run)["state_name"] == "Failed"
    assert "the flow fails on purpose" in whole.message(run)
    whole.wait_log(run, "hook on_failure saw Failed")


def test_wrong_parameters_are_named_in_the_runs_state(whole: Stack, plain: str) -> None:
    body = {
        "parameters": {"what": "fails", "nonsense": 2},
        "enforce_parameter_schema": False,
        "state": {"type": "SCHEDULED"},
    }
    answer = whole.api.post(f"/deployments/{plain}/create_flow_run", json=body)
    assert answer.status_code == 201
    assert whole.wait(answer.json()["id"])["state_name"] == "Crashed"
    assert "nonsense" in whole.message(answer.json()["id"])
    assert "Correct the parameters" in whole.message(answer.json()["id"])


def test_a_paused_run_goes_on_in_its_process(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="pauses")
    whole.wait(run, "Paused")
    assert whole.api.post(f"/flow_runs/{run}/resume", json={}).is_success
    assert whole.wait(run)["state_name"] == "Completed"


def test_a_suspended_run_gives_its_process_up_and_comes_back(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="suspends")
    whole.wait(run, "Suspended")
    wait_for(lambda: [e for e in whole.events("run_ended") if e["run"] == run], "the suspended attempt ends")
    assert whole.run(run)["state_name"] == "Suspended"
    assert whole.api.post(f"/flow_runs/{run}/resume", json={}).is_success
    assert whole.wait(run)["state_name"] == "Completed"
    whole.wait_log(run, "went on in another process")


def test_a_run_that_is_suspended_from_outside_stops_at_its_next_step(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="walks", with_={"steps": 300})
    whole.wait_log(run, "task 2 is in process")
    details = {"pause_timeout": "2100-01-01T00:00:00Z", "pause_reschedule": True}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    assert whole.api.post(f"/flow_runs/{run}/set_state", json={"state": state}).json()["status"] == "ACCEPT"
    wait_for(lambda: [e for e in whole.events("run_ended") if e["run"] == run], "the suspended attempt ends")
    assert whole.run(run)["state_name"] == "Suspended"
    assert not [entry for entry in whole.logs(run) if "task 299 " in entry["message"]]


def test_a_run_beats_for_those_who_watch_for_zombies(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="walks", with_={"steps": 1})
    whole.wait(run)
    name, resource = {"name": ["prefect.flow-run.heartbeat"]}, {"id": [f"prefect.flow-run.{run}"]}
    body = {"filter": {"event": name, "resource": resource}}
    [beat] = wait_for(lambda: whole.api.post("/events/filter", json=body).json()["events"], "a heartbeat")
    roles = {related["prefect.resource.role"] for related in beat["related"]}
    assert roles >= {"flow", "deployment", "work-queue", "work-pool"}


def test_a_sub_flow_run_by_deployment_runs_and_is_waited_for(whole: Stack, plain: str) -> None:
    run = whole.start(plain, what="deploys", with_={"deployment": "lab/plain"})
    assert whole.wait(run)["state_name"] == "Completed"
    whole.wait_log(run, "found 'Completed'")


def test_flow_retries_and_timeouts(whole: Stack) -> None:
    again = whole.start(whole.deploy("lab.py:twice", "d"))
    slow = whole.start(whole.deploy("lab.py:too_slow", "d"))
    assert whole.wait(again)["state_name"] == "Completed"
    assert whole.run(again)["run_count"] == 2
    assert whole.wait(slow)["state_name"] == "TimedOut"


def test_an_end_that_a_late_state_covers_is_said_again(whole: Stack) -> None:
    """As when a server carries out a Running that was lost on its way after the run has completed."""
    run = whole.start(whole.deploy("page.py:page", "covered"))
    assert whole.wait(run)["state_name"] == "Completed"
    late = whole.api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "RUNNING", "name": "Running"}})
    assert late.json()["status"] == "ACCEPT"
    assert whole.wait(run, timeout_s=60)["state_name"] == "Completed"
    assert whole.states(run)[-3:] == ["Completed", "Running", "Completed"]
