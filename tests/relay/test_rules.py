import json
from typing import Any

import pytest

from flowgroup.model.ids import RunId
from flowgroup.relay import named, paths, rules
from flowgroup.relay.rule import Allow, NeedsOwner, Refuse, Ruling
from flowgroup.relay.rules import RULES
from flowgroup.relay.tokens import Belongings, Kind, Named

OWN = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"
TASK = "33333333-3333-3333-3333-333333333333"
ARTIFACT = "44444444-4444-4444-4444-444444444444"
LEASE = "55555555-5555-5555-5555-555555555555"


def ruling(method: str, path: str, body: Any = None) -> Ruling:
    """What the list says of a call by an attempt of run OWN that has task run TASK."""
    belongings = Belongings(RunId(OWN))
    belongings.add(Kind.TASK_RUN, TASK)
    parts = paths.segments(path.encode())
    found = rules.find(method, parts)
    parsed = named.parse(json.dumps(body)) if found and found[0].reads_body else None
    return rules.decide(found, parts, parsed, belongings.cover)


def flow_event(id: str, *, related: str | None = None) -> dict[str, Any]:
    more = [{"prefect.resource.id": f"prefect.flow-run.{related}", "prefect.resource.role": "flow-run"}]
    return {
        "event": "something.happened",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{id}"},
        "related": more if related else [],
        "payload": {},
    }


def task_event(id: str, row: dict[str, Any], *, flow_run: str = OWN) -> dict[str, Any]:
    return {
        "event": "prefect.task-run.Completed",
        "resource": {"prefect.resource.id": f"prefect.task-run.{id}"},
        "related": [{"prefect.resource.id": f"prefect.flow-run.{flow_run}", "prefect.resource.role": "flow-run"}],
        "payload": {"task_run": row, "validated_state": {}},
    }


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/admin/version", None),
        ("GET", "/admin/storage", None),
        ("GET", "/csrf-token", None),
        ("GET", f"/flow_runs/{OTHER}", None),
        ("POST", "/flow_runs/filter", {}),
        ("PATCH", f"/flow_runs/{OWN}", {}),
        ("PATCH", f"/flow_runs/{OWN.upper()}", {}),
        ("PATCH", f"/flow_runs/{OWN}/labels", {}),
        ("POST", f"/flow_runs/{OWN}/set_state", {}),
        ("POST", f"/flow_runs/{OWN}/resume", {}),
        ("POST", "/flow_runs/", {"flow_id": OTHER, "parent_task_run_id": TASK}),
        ("POST", "/flow_runs/", {"flow_id": OTHER}),
        ("POST", f"/deployments/{OTHER}/create_flow_run", {"parent_task_run_id": None}),
        ("POST", f"/flow_runs/{OTHER}/input", {}),
        ("POST", f"/flow_runs/{OWN}/input/filter", {}),
        ("DELETE", f"/flow_runs/{OWN}/input/some-key", None),
        ("GET", f"/task_runs/{OTHER}", None),
        ("POST", "/task_runs/", {"flow_run_id": OWN}),
        ("POST", f"/task_runs/{TASK}/set_state", {}),
        ("POST", "/logs/", [{"flow_run_id": OWN, "task_run_id": TASK}, {"flow_run_id": OWN, "task_run_id": None}]),
        ("POST", "/logs/", []),
        ("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [OWN]}}}),
        ("POST", "/logs/filter", {"logs": {"task_run_id": {"any_": [TASK]}}}),
        ("POST", "/events", [flow_event(OWN), flow_event(OWN, related=OWN), task_event(TASK, {"id": TASK})]),
        ("POST", "/events", [{"event": "mine", "resource": {"prefect.resource.id": "my.thing"}}]),
        ("POST", "/artifacts/", {"key": "a", "flow_run_id": OWN, "task_run_id": TASK}),
        ("GET", "/artifacts/my-key/latest", None),
        ("POST", "/flows/", {"name": "sub"}),
        ("GET", "/deployments/name/my%20flow/dev", None),
        ("GET", "/work_pools/pool", None),
        ("GET", "/block_types/slug/secret/block_documents/name/my-secret", None),
        ("GET", "/block_schemas/checksum/sha256:abc", None),
        ("GET", "/variables/name/x", None),
        ("POST", "/variables/", {}),
        ("PATCH", "/variables/name/x", {}),
        ("DELETE", "/variables/name/x", None),
        ("POST", "/concurrency_limits/increment", {"names": [], "task_run_id": TASK}),
        ("POST", "/v2/concurrency_limits/increment-with-lease", {"holder": {"type": "flow_run", "id": OWN}}),
        ("POST", "/v2/concurrency_limits/increment-with-lease", {"holder": None}),
        ("POST", "/v2/concurrency_limits/decrement-with-lease", {"lease_id": LEASE}),
        ("POST", f"/v2/concurrency_limits/leases/{LEASE}/renew", {}),
    ],
)
def test_what_an_ordinary_flow_does_passes(method: str, path: str, body: Any) -> None:
    assert isinstance(ruling(method, path, body), Allow)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("PATCH", f"/flow_runs/{OTHER}", {}, Kind.FLOW_RUN),
        ("POST", f"/flow_runs/{OTHER}/set_state", {}, Kind.FLOW_RUN),
        ("POST", f"/flow_runs/{OTHER}/resume", {}, Kind.FLOW_RUN),
        ("GET", f"/flow_runs/{OTHER}/logs/download", None, Kind.FLOW_RUN),
        ("GET", f"/flow_runs/{OTHER}/input/key", None, Kind.FLOW_RUN),
        ("POST", "/flow_runs/", {"parent_task_run_id": OTHER}, Kind.TASK_RUN),
        ("POST", f"/task_runs/{OTHER}/set_state", {}, Kind.TASK_RUN),
        ("POST", "/task_runs/", {"flow_run_id": OTHER}, Kind.FLOW_RUN),
        ("POST", "/logs/", [{"flow_run_id": OWN}, {"flow_run_id": OTHER}], Kind.FLOW_RUN),
        ("POST", "/logs/", [{"flow_run_id": OWN, "task_run_id": OTHER}], Kind.TASK_RUN),
        ("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [OWN, OTHER]}}}, Kind.FLOW_RUN),
        ("POST", "/logs/filter", {"logs": {"task_run_id": {"any_": [OTHER]}}}, Kind.TASK_RUN),
        ("POST", "/events", [flow_event(OTHER)], Kind.FLOW_RUN),
        ("POST", "/events", [flow_event(OWN, related=OTHER)], Kind.FLOW_RUN),
        ("POST", "/events", [task_event(TASK, {}, flow_run=OTHER)], Kind.FLOW_RUN),
        ("POST", "/events", [task_event(TASK, {"id": OTHER})], Kind.TASK_RUN),
        ("POST", "/events", [task_event(TASK, {"flow_run_id": OTHER})], Kind.FLOW_RUN),
        ("POST", "/artifacts/", {"flow_run_id": OTHER}, Kind.FLOW_RUN),
        ("PATCH", f"/artifacts/{ARTIFACT}", {}, Kind.ARTIFACT),
        (
            "POST",
            "/v2/concurrency_limits/increment-with-lease",
            {"holder": {"type": "flow_run", "id": OTHER}},
            Kind.FLOW_RUN,
        ),
    ],
)
def test_ids_of_others_must_be_shown_to_be_own(method: str, path: str, body: Any, kind: Kind) -> None:
    got = ruling(method, path, body)
    assert isinstance(got, NeedsOwner)
    assert {one.kind for one in got.named} == {kind}


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/admin/settings", "administer"),
        ("DELETE", "/admin/storage", "administer"),
        ("PUT", "/admin/storage", "administer"),
        ("DELETE", f"/flow_runs/{OWN}", "not one that a flow run makes"),
        ("POST", "/flow_runs/bulk_set_state", "not one"),
        ("POST", "/flow_runs/bulk_delete", "not one"),
        ("DELETE", f"/flows/{OTHER}", "not one"),
        ("PATCH", f"/flows/{OTHER}", "not one"),
        ("POST", "/deployments/", "deploy"),
        ("PATCH", f"/deployments/{OTHER}", "deploy"),
        ("DELETE", f"/deployments/{OTHER}", "deploy"),
        ("POST", f"/deployments/{OTHER}/schedules", "deploy"),
        ("POST", "/deployments/get_scheduled_flow_runs", "deploy"),
        ("POST", "/work_pools/", "work pools"),
        ("PATCH", "/work_pools/p", "work pools"),
        ("DELETE", "/work_pools/p", "work pools"),
        ("POST", "/work_pools/p/get_scheduled_flow_runs", "work pools"),
        ("POST", "/work_pools/p/workers/heartbeat", "work pools"),
        ("POST", "/block_documents/", "blocks"),
        ("PATCH", f"/block_documents/{OTHER}", "blocks"),
        ("DELETE", f"/block_documents/{OTHER}", "blocks"),
        ("POST", "/block_types/", "blocks"),
        ("POST", "/block_schemas/", "blocks"),
        ("POST", "/v2/concurrency_limits/", "limits"),
        ("PATCH", "/v2/concurrency_limits/x", "limits"),
        ("POST", "/concurrency_limits/", "limits"),
        ("POST", "/concurrency_limits/tag/x/reset", "limits"),
        ("POST", "/automations/", "automations"),
        ("PUT", "/saved_searches/", "not one"),
        ("GET", "/", "not one"),
        ("GET", "/flow_runs/not-an-id", "not one"),
        ("HEAD", f"/flow_runs/{OWN}", "not one"),
        ("get", "/health", "not one"),
    ],
)
def test_what_no_ordinary_flow_does_is_refused_with_the_reason(method: str, path: str, says: str) -> None:
    got = ruling(method, path)
    assert isinstance(got, Refuse)
    assert says in got.reason


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/logs/", {}),
        ("/logs/", ["x"]),
        ("/logs/", [{"flow_run_id": 7}]),
        ("/logs/", [{"flow_run_id": "x"}]),
        ("/logs/filter", {}),
        ("/logs/filter", {"logs": {"level": {"ge_": 0}}}),
        ("/logs/filter", {"logs": {"flow_run_id": {"any_": []}}}),
        ("/logs/filter", {"logs": {"operator": "or_", "flow_run_id": {"any_": [OWN]}}}),
        ("/events", {}),
        ("/events", [1]),
        ("/events", [{"resource": {"prefect.resource.id": "prefect.flow-run.x"}}]),
        ("/events", [{"resource": ["x"], "related": {}}]),
        ("/flow_runs/", None),
        ("/flow_runs/", {"parent_task_run_id": []}),
        ("/v2/concurrency_limits/increment-with-lease", {"holder": {"type": "admin", "id": OWN}}),
    ],
)
def test_a_body_that_cannot_be_judged_is_refused(path: str, body: Any) -> None:
    assert isinstance(ruling("POST", path, body), Refuse)


@pytest.mark.parametrize(
    "raw",
    [
        f'[{{"flow_run_id": "{OTHER}", "flow_run_id": "{OWN}"}}]'.encode(),
        b"[" * 200_000,
        b"\xff\xfe[]",
        "[]".encode("utf-16"),
        b"",
        b"{",
    ],
)
def test_json_that_two_readers_could_read_differently_is_malformed(raw: bytes) -> None:
    with pytest.raises(named.Malformed):
        named.parse(raw)


def test_what_is_sent_has_the_servers_own_slash() -> None:
    assert ruling("POST", "/logs", []) == Allow("/logs/", "/logs/")
    assert ruling("POST", "/events/", []) == Allow("/events", "/events")


def test_what_a_call_makes_is_known() -> None:
    made = {rule.template: rule.makes for rule in RULES if rule.makes}
    assert made == {
        "/flow_runs/": Kind.FLOW_RUN,
        "/deployments/{id}/create_flow_run": Kind.FLOW_RUN,
        "/task_runs/": Kind.TASK_RUN,
        "/artifacts/": Kind.ARTIFACT,
    }


def test_an_unknown_task_run_may_be_new_where_calls_bring_it_into_being() -> None:
    got = ruling("POST", "/logs/", [{"flow_run_id": OWN, "task_run_id": OTHER}])
    assert isinstance(got, NeedsOwner)
    assert got.named == (Named(Kind.TASK_RUN, OTHER, may_be_new=True),)
    acting = ruling("POST", f"/task_runs/{OTHER}/set_state", {})
    assert isinstance(acting, NeedsOwner)
    assert acting.named == (Named(Kind.TASK_RUN, OTHER),)
