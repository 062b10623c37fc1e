"""
What may pass: all that an ordinary flow does (the profile `standard`). Everything else is refused.

A pure decision from a call to a ruling. Templates are Prefect's own paths as the server has them; a slash at
the end does not matter when matching, and what is sent on is the server's form. `{id}` is a UUID, `{name}`
one part of a path.
"""

from collections.abc import Callable

from flowgroup.relay import named
from flowgroup.relay.rule import Found, Refuse, Rule, Rules, Ruling, decided, reading, with_body
from flowgroup.relay.strict import STRICT
from flowgroup.relay.tokens import Kind, Named

RULES: tuple[Rule, ...] = (
    # The client itself, and the engine before a run.
    *reading("GET /health", "GET /ready", "GET /hello", "GET /version", "GET /csrf-token"),
    *reading("GET /admin/version", "GET /admin/storage"),
    # Own flow run, and those that it started.
    *reading("GET /flow_runs/{id}", "POST /flow_runs/filter", "POST /flow_runs/count", "POST /flow_runs/paginate"),
    *reading("POST /flow_runs/history", "POST /flow_runs/lateness"),
    *reading("GET /flow_runs/{id}/graph", "GET /flow_runs/{id}/graph-v2"),
    *reading("GET /flow_run_states/{id}", "GET /flow_run_states/"),
    Rule("PATCH", "/flow_runs/{id}", named.flow_run_in_path),
    Rule("PATCH", "/flow_runs/{id}/labels", named.flow_run_in_path),
    with_body("POST", "/flow_runs/{id}/set_state", named.flow_run_in_path),
    Rule("POST", "/flow_runs/{id}/resume", named.flow_run_in_path),
    Rule("GET", "/flow_runs/{id}/logs/download", named.flow_run_in_path, reads=True),
    with_body("POST", "/flow_runs/", named.parent_in_body, makes=Kind.FLOW_RUN),
    with_body("POST", "/deployments/{id}/create_flow_run", named.parent_in_body, makes=Kind.FLOW_RUN),
    # Inputs: anyone's run may be sent one, as Prefect's send_input does; only one's own are read and deleted.
    Rule("POST", "/flow_runs/{id}/input"),
    Rule("POST", "/flow_runs/{id}/input/filter", named.flow_run_in_path, reads=True),
    Rule("GET", "/flow_runs/{id}/input/{name}", named.flow_run_in_path, reads=True),
    Rule("DELETE", "/flow_runs/{id}/input/{name}", named.flow_run_in_path),
    # Task runs.
    *reading("GET /task_runs/{id}", "POST /task_runs/filter", "POST /task_runs/count", "POST /task_runs/paginate"),
    *reading("POST /task_runs/history", "GET /task_run_states/{id}", "GET /task_run_states/"),
    with_body("POST", "/task_runs/", named.new_task_run, makes=Kind.TASK_RUN),
    Rule("PATCH", "/task_runs/{id}", named.task_run_in_path),
    with_body("POST", "/task_runs/{id}/set_state", named.task_run_in_path),
    # Logs, events, artifacts.
    with_body("POST", "/logs/", named.log_records),
    with_body("POST", "/logs/filter", named.logs_asked_for, reads=True),
    with_body("POST", "/events", named.events),
    *reading("POST /events/filter", "GET /events/filter/next", "POST /events/count-by/{name}"),
    with_body("POST", "/artifacts/", named.whose_artifact, makes=Kind.ARTIFACT),
    Rule("PATCH", "/artifacts/{id}", named.artifact_in_path),
    *reading("GET /artifacts/{id}", "GET /artifacts/{name}/latest"),
    *reading("POST /artifacts/filter", "POST /artifacts/latest/filter"),
    *reading("POST /artifacts/count", "POST /artifacts/latest/count"),
    # Flows and deployments. A flow's own registration is by name, and changes nothing when it is there.
    Rule("POST", "/flows/"),
    *reading("GET /flows/{id}", "GET /flows/name/{name}"),
    *reading("POST /flows/filter", "POST /flows/count", "POST /flows/paginate"),
    *reading("GET /deployments/{id}", "GET /deployments/name/{name}/{name}", "GET /deployments/{id}/schedules"),
    *reading("POST /deployments/filter", "POST /deployments/count", "POST /deployments/paginate"),
    # Work pools and queues are read: the engine relates its events to them.
    *reading("GET /work_pools/{name}", "POST /work_pools/filter", "POST /work_pools/count"),
    *reading("GET /work_pools/{name}/queues/{name}", "POST /work_pools/{name}/queues/filter"),
    *reading("GET /work_queues/{id}", "GET /work_queues/name/{name}", "POST /work_queues/filter"),
    *reading("GET /work_queues/{id}/status"),
    # Blocks are read. Secret.load() asks for its document with include_secrets=true.
    *reading("GET /block_types/{id}", "GET /block_types/slug/{name}", "POST /block_types/filter"),
    *reading("GET /block_types/slug/{name}/block_documents", blocks=True),
    *reading("GET /block_types/slug/{name}/block_documents/name/{name}", blocks=True),
    *reading("GET /block_documents/{id}", "POST /block_documents/filter", blocks=True),
    *reading("POST /block_documents/count"),
    *reading("GET /block_schemas/{id}", "GET /block_schemas/checksum/{name}", "POST /block_schemas/filter"),
    *reading("GET /block_capabilities/"),
    # Variables are an ordinary flow's memory between runs: Variable.get, set and unset.
    *reading("GET /variables/{id}", "GET /variables/name/{name}", "POST /variables/filter", "POST /variables/count"),
    Rule("POST", "/variables/"),
    Rule("PATCH", "/variables/{id}"),
    Rule("PATCH", "/variables/name/{name}"),
    Rule("DELETE", "/variables/name/{name}"),
    # Concurrency: slots are taken and given back; limits are read.
    *reading(
        "GET /concurrency_limits/{id}",
        "GET /concurrency_limits/tag/{name}",
        "POST /concurrency_limits/filter",
    ),
    *reading("GET /v2/concurrency_limits/{name}", "POST /v2/concurrency_limits/filter"),
    with_body("POST", "/concurrency_limits/increment", named.task_run_in_body),
    with_body("POST", "/concurrency_limits/decrement", named.task_run_in_body),
    Rule("POST", "/v2/concurrency_limits/increment"),
    Rule("POST", "/v2/concurrency_limits/decrement"),
    with_body("POST", "/v2/concurrency_limits/increment-with-lease", named.holder_in_body),
    Rule("POST", "/v2/concurrency_limits/decrement-with-lease"),
    Rule("POST", "/v2/concurrency_limits/leases/{id}/renew"),
)

STANDARD = Rules(RULES)
PROFILES = {"standard": STANDARD, "strict": STRICT}

# What a refusal says, by the path's first part, when something more helpful is known than "not on the list".
_WHY = {
    "block_types": "runs read blocks and do not change them; save the block from where you deploy",
    "block_schemas": "runs read blocks and do not change them; save the block from where you deploy",
    "block_documents": "runs read blocks and do not change them; save the block from where you deploy",
    "deployments": "runs read deployments and start them, and do not change them; deploy from outside",
    "work_pools": "runs do not change work pools or take work from them",
    "work_queues": "runs do not change work queues or take work from them",
    "admin": "runs do not administer the server",
    "automations": "runs do not change automations; make them from outside",
    "concurrency_limits": "runs take slots of limits and do not change limits; make them from outside",
    "v2": "runs take slots of limits and do not change limits; make them from outside",
}


def find(method: str, parts: tuple[str, ...], profile: str = "standard") -> Found | None:
    """The rule for this call, and what its path names."""
    return PROFILES[profile].find(method, parts)


def decide(found: Found | None, parts: tuple[str, ...], body: object, covers: Callable[[Named], bool]) -> Ruling:
    """The ruling on a call that `find` found (or not). `body` is its JSON where the rule reads it."""
    return Refuse(_why(parts)) if found is None else decided(found, parts, body, covers)


def _why(parts: tuple[str, ...]) -> str:
    return _WHY.get(parts[0] if parts else "", "this call is not one that a flow run makes")
