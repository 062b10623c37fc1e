"""
What may pass: all that an ordinary flow does. Everything else is refused.

A pure decision from a call to a ruling. Templates are Prefect's own paths as the server has them; a slash at
the end does not matter when matching, and what is sent on is the server's form. `{id}` is a UUID, `{name}`
one part of a path.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flowgroup.relay import named
from flowgroup.relay.named import Call, Malformed
from flowgroup.relay.paths import encoded
from flowgroup.relay.tokens import Kind, Named

Names = Callable[[Call], Iterable[Named]]


@dataclass(frozen=True, slots=True)
class Allow:
    """
    It may pass, to `path`. `route` is its template, for metrics and logs; `makes`: what its answer's `id` is;
    `reads`: it changes nothing, so that it may be given up and sent again.
    """

    route: str
    path: str
    makes: Kind | None = None
    reads: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """It may not. The reason is for the flow's author."""

    reason: str


@dataclass(frozen=True, slots=True)
class NeedsOwner:
    """It may pass if all of these belong to the caller, which is not known here."""

    named: tuple[Named, ...]
    allow: Allow


Ruling = Allow | Refuse | NeedsOwner


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of call that may pass."""

    method: str
    template: str
    names: Names = named.nothing
    makes: Kind | None = None
    reads_body: bool = False
    reads: bool = False


def _reads(*templates: str) -> Iterator[Rule]:
    """`GET /x` or `POST /x/filter`: reading what the workspace has, but for other runs' logs and inputs."""
    for template in templates:
        method, path = template.split()
        yield Rule(method, path, reads=True)


def _body(
    method: str, template: str, names: Names = named.nothing, *, makes: Kind | None = None, reads: bool = False
) -> Rule:
    return Rule(method, template, names, makes, reads_body=True, reads=reads)


RULES: tuple[Rule, ...] = (
    # The client itself, and the engine before a run.
    *_reads("GET /health", "GET /ready", "GET /hello", "GET /version", "GET /csrf-token"),
    *_reads("GET /admin/version", "GET /admin/storage"),
    # Own flow run, and those that it started.
    *_reads("GET /flow_runs/{id}", "POST /flow_runs/filter", "POST /flow_runs/count", "POST /flow_runs/paginate"),
    *_reads("POST /flow_runs/history", "POST /flow_runs/lateness"),
    *_reads("GET /flow_runs/{id}/graph", "GET /flow_runs/{id}/graph-v2"),
    *_reads("GET /flow_run_states/{id}", "GET /flow_run_states/"),
    Rule("PATCH", "/flow_runs/{id}", named.flow_run_in_path),
    Rule("PATCH", "/flow_runs/{id}/labels", named.flow_run_in_path),
    Rule("POST", "/flow_runs/{id}/set_state", named.flow_run_in_path),
    Rule("POST", "/flow_runs/{id}/resume", named.flow_run_in_path),
    Rule("GET", "/flow_runs/{id}/logs/download", named.flow_run_in_path, reads=True),
    _body("POST", "/flow_runs/", named.parent_in_body, makes=Kind.FLOW_RUN),
    _body("POST", "/deployments/{id}/create_flow_run", named.parent_in_body, makes=Kind.FLOW_RUN),
    # Inputs: anyone's run may be sent one, as Prefect's send_input does; only one's own are read and deleted.
    Rule("POST", "/flow_runs/{id}/input"),
    Rule("POST", "/flow_runs/{id}/input/filter", named.flow_run_in_path, reads=True),
    Rule("GET", "/flow_runs/{id}/input/{name}", named.flow_run_in_path, reads=True),
    Rule("DELETE", "/flow_runs/{id}/input/{name}", named.flow_run_in_path),
    # Task runs.
    *_reads("GET /task_runs/{id}", "POST /task_runs/filter", "POST /task_runs/count", "POST /task_runs/paginate"),
    *_reads("POST /task_runs/history", "GET /task_run_states/{id}", "GET /task_run_states/"),
    _body("POST", "/task_runs/", named.new_task_run, makes=Kind.TASK_RUN),
    Rule("PATCH", "/task_runs/{id}", named.task_run_in_path),
    Rule("POST", "/task_runs/{id}/set_state", named.task_run_in_path),
    # Logs, events, artifacts.
    _body("POST", "/logs/", named.log_records),
    _body("POST", "/logs/filter", named.logs_asked_for, reads=True),
    _body("POST", "/events", named.events),
    *_reads("POST /events/filter", "GET /events/filter/next", "POST /events/count-by/{name}"),
    _body("POST", "/artifacts/", named.whose_artifact, makes=Kind.ARTIFACT),
    Rule("PATCH", "/artifacts/{id}", named.artifact_in_path),
    *_reads("GET /artifacts/{id}", "GET /artifacts/{name}/latest"),
    *_reads("POST /artifacts/filter", "POST /artifacts/latest/filter"),
    *_reads("POST /artifacts/count", "POST /artifacts/latest/count"),
    # Flows and deployments. A flow's own registration is by name, and changes nothing when it is there.
    Rule("POST", "/flows/"),
    *_reads("GET /flows/{id}", "GET /flows/name/{name}"),
    *_reads("POST /flows/filter", "POST /flows/count", "POST /flows/paginate"),
    *_reads("GET /deployments/{id}", "GET /deployments/name/{name}/{name}", "GET /deployments/{id}/schedules"),
    *_reads("POST /deployments/filter", "POST /deployments/count", "POST /deployments/paginate"),
    # Work pools and queues are read: the engine relates its events to them.
    *_reads("GET /work_pools/{name}", "POST /work_pools/filter", "POST /work_pools/count"),
    *_reads("GET /work_pools/{name}/queues/{name}", "POST /work_pools/{name}/queues/filter"),
    *_reads("GET /work_queues/{id}", "GET /work_queues/name/{name}", "POST /work_queues/filter"),
    *_reads("GET /work_queues/{id}/status"),
    # Blocks are read. Secret.load() asks for its document with include_secrets=true.
    *_reads("GET /block_types/{id}", "GET /block_types/slug/{name}", "POST /block_types/filter"),
    *_reads("GET /block_types/slug/{name}/block_documents"),
    *_reads("GET /block_types/slug/{name}/block_documents/name/{name}"),
    *_reads("GET /block_documents/{id}", "POST /block_documents/filter", "POST /block_documents/count"),
    *_reads("GET /block_schemas/{id}", "GET /block_schemas/checksum/{name}", "POST /block_schemas/filter"),
    *_reads("GET /block_capabilities/"),
    # Variables are an ordinary flow's memory between runs: Variable.get, set and unset.
    *_reads("GET /variables/{id}", "GET /variables/name/{name}", "POST /variables/filter", "POST /variables/count"),
    Rule("POST", "/variables/"),
    Rule("PATCH", "/variables/{id}"),
    Rule("PATCH", "/variables/name/{name}"),
    Rule("DELETE", "/variables/name/{name}"),
    # Concurrency: slots are taken and given back; limits are read.
    *_reads(
        "GET /concurrency_limits/{id}",
        "GET /concurrency_limits/tag/{name}",
        "POST /concurrency_limits/filter",
    ),
    *_reads("GET /v2/concurrency_limits/{name}", "POST /v2/concurrency_limits/filter"),
    _body("POST", "/concurrency_limits/increment", named.task_run_in_body),
    _body("POST", "/concurrency_limits/decrement", named.task_run_in_body),
    Rule("POST", "/v2/concurrency_limits/increment"),
    Rule("POST", "/v2/concurrency_limits/decrement"),
    _body("POST", "/v2/concurrency_limits/increment-with-lease", named.holder_in_body),
    Rule("POST", "/v2/concurrency_limits/decrement-with-lease"),
    Rule("POST", "/v2/concurrency_limits/leases/{id}/renew"),
)

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


def find(method: str, parts: tuple[str, ...]) -> tuple[Rule, tuple[str, ...]] | None:
    """The rule for this call, and the ids in its path."""
    for rule, template in _INDEX.get((method, parts[:1], len(parts)), ()):
        ids = _matched(template, parts)
        if ids is not None:
            return rule, ids
    return None


def decide(
    found: tuple[Rule, tuple[str, ...]] | None,
    parts: tuple[str, ...],
    body: object,
    covers: Callable[[Named], bool],
) -> Ruling:
    """The ruling on a call that `find` found (or not). `body` is its JSON where the rule reads it."""
    if found is None:
        return Refuse(_WHY.get(parts[0] if parts else "", "this call is not one that a flow run makes"))
    rule, ids = found
    allow = Allow(rule.template, encoded(parts, slash_at_end=rule.template.endswith("/")), rule.makes, rule.reads)
    try:
        unknown = {one: None for one in rule.names(Call(ids, body)) if not covers(one)}
    except Malformed as exc:
        return Refuse(str(exc))
    return NeedsOwner(tuple(unknown), allow) if unknown else allow


def _matched(template: tuple[str, ...], parts: tuple[str, ...]) -> tuple[str, ...] | None:
    ids: list[str] = []
    for expected, part in zip(template, parts, strict=True):
        if expected == "{id}":
            try:
                ids.append(named.uuid_of(part))
            except Malformed:
                return None
        elif expected not in ("{name}", part):
            return None
    return tuple(ids)


def _indexed(
    rules: Iterable[Rule],
) -> dict[tuple[str, tuple[str, ...], int], list[tuple[Rule, tuple[str, ...]]]]:
    index: dict[tuple[str, tuple[str, ...], int], list[tuple[Rule, tuple[str, ...]]]] = {}
    for rule in rules:
        template = tuple(rule.template.strip("/").split("/"))
        index.setdefault((rule.method, template[:1], len(template)), []).append((rule, template))
    return index


_INDEX = _indexed(RULES)
