"""The profile `strict`: a run's own, and what the settings name."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowgroup.model.ids import RunId
from flowgroup.relay import named, paths, rules
from flowgroup.relay.rule import Allow, NeedsOwner, Refuse, Ruling
from flowgroup.relay.strict import STRICT, Granted
from flowgroup.relay.tokens import Belongings, Kind
from flowgroup.settings import RelaySettings
from tests.relay.serving import an_id, relay
from tests.relay.test_rules import ARTIFACT, LEASE, OTHER, OWN, TASK, flow_event, task_event

GRANTED = Granted(variables=("mine-*",), blocks=("secret/mine",), deployments=("flow/*",))


def ruling(method: str, path: str, body: Any = None) -> Ruling:
    """What the list says of a call by an attempt of run OWN that has task run TASK."""
    belongings = Belongings(RunId(OWN))
    belongings.add(Kind.TASK_RUN, TASK)
    parts = paths.segments(path.encode())
    found = rules.find(method, parts, "strict")
    parsed = named.parse(json.dumps(body)) if found and found.rule.reads_body else None
    return rules.decide(found, parts, parsed, lambda one: belongings.cover(one) or GRANTED.covers(one))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/admin/version", None),
        ("GET", f"/flow_runs/{OWN}", None),
        ("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": [OWN]}}}),
        ("POST", "/flow_runs/filter", {"flow_runs": {"parent_task_run_id": {"any_": [TASK]}}, "limit": 1}),
        ("PATCH", f"/flow_runs/{OWN}", {"name": "x"}),
        ("POST", f"/flow_runs/{OWN}/set_state", {"state": {"type": "RUNNING"}}),
        ("POST", "/flow_runs/", {"flow_id": OTHER, "parent_task_run_id": TASK}),
        ("GET", f"/task_runs/{TASK}", None),
        ("POST", "/task_runs/filter", {"task_runs": {"id": {"any_": [TASK]}}}),
        ("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [OWN]}}}),
        ("POST", "/task_runs/", {"flow_run_id": OWN}),
        ("POST", "/logs/", [{"flow_run_id": OWN, "task_run_id": TASK}]),
        ("POST", "/events", [flow_event(OWN), task_event(TASK, {"id": TASK})]),
        ("POST", "/artifacts/", {"key": "a", "flow_run_id": OWN}),
        ("POST", "/flows/", {"name": "sub"}),
        ("GET", "/variables/name/mine-1", None),
        ("POST", "/variables/", {"name": "mine-1", "value": 1}),
        ("PATCH", "/variables/name/mine-1", {"value": 2}),
        ("GET", "/deployments/name/flow/dev", None),
        ("GET", "/block_types/slug/secret/block_documents/name/mine", None),
        ("POST", "/v2/concurrency_limits/increment-with-lease", {"holder": {"type": "flow_run", "id": OWN}}),
        ("POST", f"/v2/concurrency_limits/leases/{LEASE}/renew", {}),
    ],
)
def test_a_runs_own_and_what_is_named_passes(method: str, path: str, body: Any) -> None:
    assert isinstance(ruling(method, path, body), Allow)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("GET", f"/flow_runs/{OTHER}", None, Kind.FLOW_RUN),
        ("GET", f"/flow_runs/{OTHER}/graph-v2", None, Kind.FLOW_RUN),
        ("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": [OWN, OTHER]}}}, Kind.FLOW_RUN),
        ("POST", f"/flow_runs/{OTHER}/input", {}, Kind.FLOW_RUN),
        ("GET", f"/task_runs/{OTHER}", None, Kind.TASK_RUN),
        ("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [OTHER]}}}, Kind.FLOW_RUN),
        ("GET", f"/artifacts/{ARTIFACT}", None, Kind.ARTIFACT),
        ("GET", f"/deployments/{OTHER}", None, Kind.DEPLOYMENT),
        ("GET", "/deployments/name/other/dev", None, Kind.DEPLOYMENT),
        ("POST", f"/deployments/{OTHER}/create_flow_run", {"parent_task_run_id": TASK}, Kind.DEPLOYMENT),
        ("POST", "/flow_runs/", {"parent_task_run_id": TASK, "deployment_id": OTHER}, Kind.DEPLOYMENT),
        ("GET", "/work_pools/other", None, Kind.WORK_POOL),
        ("GET", "/variables/name/yours", None, Kind.VARIABLE),
        ("POST", "/variables/", {"name": "yours"}, Kind.VARIABLE),
        ("PATCH", "/variables/name/mine-1", {"name": "yours"}, Kind.VARIABLE),
        ("DELETE", "/variables/name/yours", None, Kind.VARIABLE),
        ("GET", "/block_types/slug/secret/block_documents/name/other", None, Kind.BLOCK),
    ],
)
def test_what_is_anothers_must_be_shown_to_be_own(method: str, path: str, body: Any, kind: Kind) -> None:
    got = ruling(method, path, body)
    assert isinstance(got, NeedsOwner)
    assert {one.kind for one in got.named} == {kind}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/flow_runs/filter", {}),
        ("POST", "/flow_runs/filter", {"flow_runs": {"operator": "or_", "id": {"any_": [OWN]}}}),
        (
            "POST",
            "/flow_runs/filter",
            {"flow_runs": {"parent_task_run_id": {"operator": "or_", "any_": [TASK], "is_null_": True}}},
        ),
        ("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": []}}}),
        ("POST", "/flow_runs/history", {}),
        ("POST", "/task_runs/filter", {"task_runs": {"name": {"any_": ["x"]}}}),
        ("POST", "/artifacts/latest/filter", {}),
        ("POST", "/events/filter", {}),
        ("POST", "/variables/filter", {}),
        ("GET", f"/variables/{OTHER}", None),
        ("PATCH", f"/variables/{OTHER}", {}),
        ("POST", "/deployments/filter", {}),
        ("POST", "/flows/filter", {}),
        ("POST", "/work_pools/filter", {}),
        ("GET", "/flow_run_states/", None),
        ("POST", "/flow_runs/", {"flow_id": OTHER}),
        ("POST", "/flow_runs/", {"parent_task_run_id": TASK, "work_pool_name": "other"}),
        ("POST", "/flow_runs/", {"parent_task_run_id": TASK, "job_variables": {"image": "mine"}}),
        (
            "POST",
            f"/deployments/{OTHER}/create_flow_run",
            {
                "parent_task_run_id": TASK,
                "job_variables": {"env": {}},
            },
        ),
        ("PATCH", f"/flow_runs/{OWN}", {"job_variables": {"env_from": ["x"]}}),
        ("POST", "/v2/concurrency_limits/increment", {}),
        ("POST", "/v2/concurrency_limits/decrement", {}),
        ("POST", "/v2/concurrency_limits/increment-with-lease", {"holder": None}),
        ("POST", "/concurrency_limits/increment", {"names": []}),
    ],
)
def test_what_is_not_about_the_run_is_refused(method: str, path: str, body: Any) -> None:
    assert isinstance(ruling(method, path, body), Refuse)


def test_strict_is_a_part_of_standard() -> None:
    standard = {(rule.method, rule.template) for rule in rules.RULES}
    assert {(rule.method, rule.template) for rule in STRICT.rules} <= standard


_SETTINGS = RelaySettings(hold_s=2.0, profile="strict", variables=("mine",), deployments=("sub flow/*",))


async def test_a_runs_own_deployment_and_pool_are_asked_for_once(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=_SETTINGS) as on:
        deployment, flow = an_id(), an_id()
        row = {"id": on.run, "deployment_id": deployment, "work_pool_name": "pool", "flow_id": flow}
        on.api.answers["GET", f"/flow_runs/{on.run}"] = (200, row)
        for path in (f"/api/deployments/{deployment}", "/api/work_pools/pool", f"/api/deployments/{deployment}"):
            assert (await on.child.get(path)).status_code == 200
        assert [seen.path for seen in on.api.seen].count(f"/flow_runs/{on.run}") == 1
        refused = await on.child.get("/api/work_pools/other")
        assert refused.status_code == 403
        assert "work pool other does not belong to this run" in refused.json()["detail"]


async def test_a_named_deployment_may_be_started_and_waited_for_and_another_not(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=_SETTINGS) as on:
        task, sub, flow, wanted, other = an_id(), an_id(), an_id(), an_id(), an_id()
        on.api.answers["POST", "/task_runs/"] = (201, {"id": task})
        on.api.answers["GET", f"/flow_runs/{on.run}"] = (200, {"id": on.run, "deployment_id": an_id()})
        on.api.answers["GET", f"/flows/{flow}"] = (200, {"name": "sub flow"})
        on.api.answers["GET", f"/deployments/{wanted}"] = (200, {"name": "dev", "flow_id": flow})
        on.api.answers["GET", f"/deployments/{other}"] = (200, {"name": "dev", "flow_id": an_id()})
        on.api.answers["POST", f"/deployments/{wanted}/create_flow_run"] = (201, {"id": sub})
        on.api.flow_runs[sub] = None
        await on.child.post("/api/task_runs/", json={"flow_run_id": on.run})
        body = {"parent_task_run_id": task}
        assert (await on.child.post(f"/api/deployments/{wanted}/create_flow_run", json=body)).status_code == 201
        assert (await on.child.get(f"/api/flow_runs/{sub}")).status_code == 200
        refused = await on.child.post(f"/api/deployments/{other}/create_flow_run", json=body)
        assert refused.status_code == 403
        assert "FLOWGROUP_RELAY_DEPLOYMENTS" in refused.json()["detail"]


async def test_a_variable_that_is_not_named_never_reaches_the_api(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=_SETTINGS) as on:
        assert (await on.child.get("/api/variables/name/mine")).status_code == 200
        refused = await on.child.get("/api/variables/name/yours")
        assert refused.status_code == 403
        assert "FLOWGROUP_RELAY_VARIABLES" in refused.json()["detail"]
        assert [seen.path for seen in on.api.seen] == ["/variables/name/mine"]
