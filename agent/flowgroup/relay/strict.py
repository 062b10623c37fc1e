"""
The profile `strict`: a run's own things, and what the relay's settings name. Pure.

What a run starts is its own, too. Reading by a filter passes where the filter itself keeps to own ids. Of what is about
nobody in particular (types of blocks, a flow's name by its id) reading passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from flowgroup.relay import named
from flowgroup.relay.named import Call, Malformed
from flowgroup.relay.rule import Rule, Rules, reading, with_body
from flowgroup.relay.tokens import Kind, Named

_SETTINGS = {
    Kind.VARIABLE: "FLOWGROUP_RELAY_VARIABLES",
    Kind.BLOCK: "FLOWGROUP_RELAY_BLOCKS",
    Kind.DEPLOYMENT: "FLOWGROUP_RELAY_DEPLOYMENTS",
}


@dataclass(frozen=True, slots=True)
class Granted:
    """What the settings name: patterns in which `*` stands for anything."""

    variables: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()

    def covers(self, one: Named) -> bool:
        """Whether it is named. A block is `type/name`, a deployment `flow/name`."""
        patterns = {Kind.VARIABLE: self.variables, Kind.BLOCK: self.blocks, Kind.DEPLOYMENT: self.deployments}
        return any(fnmatchcase(one.id, pattern) for pattern in patterns.get(one.kind, ()))


NOTHING = Granted()


def why_foreign(one: Named) -> str:
    """What a run is told of something that it may not name."""
    setting = _SETTINGS.get(one.kind)
    more = f", nor is it one that {setting} names" if setting else ""
    return f"{one.kind} {one.id} does not belong to this run{more}"


def _kind_in_path(kind: Kind) -> named.Names:
    def names(call: Call) -> Iterator[Named]:
        yield Named(kind, call.ids[0])

    return names


def _text_in_path(kind: Kind) -> named.Names:
    """What the path names by words: `a/b` where there are two."""

    def names(call: Call) -> Iterator[Named]:
        yield Named(kind, "/".join(call.texts))

    return names


def _pool_in_path(call: Call) -> Iterator[Named]:
    yield Named(Kind.WORK_POOL, call.texts[0])


def _asked_for(*ways: tuple[str, str, Kind]) -> named.Names:
    """A filter that keeps to own ids in one of these ways: (of what, its field, the kind of ids)."""

    def names(call: Call) -> Iterator[Named]:
        body = named.object_of(call.body)
        for where, field, kind in ways:
            if ids := named.only(named.object_of(body.get(where) or {}), field):
                yield from (Named(kind, named.uuid_of(id)) for id in ids)
                return
        raise Malformed(f"this run may ask only for its own: by {' or '.join(f'{way[0]}.{way[1]}' for way in ways)}")

    return names


def _variable_in_body(call: Call) -> Iterator[Named]:
    yield Named(Kind.VARIABLE, _text(call.body, "name"))


def _changed_variable(call: Call) -> Iterator[Named]:
    """A variable may be renamed only to one that the run may have, too."""
    yield from _text_in_path(Kind.VARIABLE)(call)
    if named.object_of(call.body).get("name") is not None:
        yield from _variable_in_body(call)


def _started_run(call: Call) -> Iterator[Named]:
    """A run below an own task, and not elsewhere or otherwise than its deployment says."""
    body = named.object_of(call.body)
    _lacks(body, "job_variables", "infrastructure_document_id", "work_pool_name", "work_queue_name")
    yield Named(Kind.TASK_RUN, named.uuid_of(body.get("parent_task_run_id")), may_be_new=True)
    if body.get("deployment_id") is not None:
        yield Named(Kind.DEPLOYMENT, named.uuid_of(body["deployment_id"]))


def _started_deployment(call: Call) -> Iterator[Named]:
    yield from _started_run(call)
    yield Named(Kind.DEPLOYMENT, call.ids[0])


def _changed_run(call: Call) -> Iterator[Named]:
    _lacks(named.object_of(call.body), "job_variables")
    yield from named.flow_run_in_path(call)


def _held_slots(call: Call) -> Iterator[Named]:
    """Slots are taken in a lease that is an own run's."""
    if named.object_of(call.body).get("holder") is None:
        raise Malformed("slots are taken with a holder: the run, or a task of it")
    yield from named.holder_in_body(call)


def _slots_of_task(call: Call) -> Iterator[Named]:
    yield Named(Kind.TASK_RUN, named.uuid_of(named.object_of(call.body).get("task_run_id")), may_be_new=True)


def _lacks(body: dict[str, Any], *names: str) -> None:
    """How and where a run is carried out is said by who deployed it."""
    for name in names:
        if body.get(name):
            raise Malformed(f"runs may not set {name}; it is the deployment's")


def _text(body: Any, name: str) -> str:
    value = named.object_of(body).get(name)
    if not isinstance(value, str):
        raise Malformed(f"the body has no {name}")
    return value


_RUNS = _asked_for(
    ("flow_runs", "id", Kind.FLOW_RUN),
    ("flow_runs", "parent_task_run_id", Kind.TASK_RUN),
    ("flow_runs", "parent_flow_run_id", Kind.FLOW_RUN),
)
_TASK_RUNS = _asked_for(
    ("task_runs", "id", Kind.TASK_RUN),
    ("task_runs", "flow_run_id", Kind.FLOW_RUN),
    ("flow_runs", "id", Kind.FLOW_RUN),
)
_ARTIFACTS = _asked_for(
    ("artifacts", "flow_run_id", Kind.FLOW_RUN),
    ("artifacts", "task_run_id", Kind.TASK_RUN),
    ("flow_runs", "id", Kind.FLOW_RUN),
)

STRICT = Rules(
    (
        *reading("GET /health", "GET /ready", "GET /hello", "GET /version", "GET /csrf-token"),
        *reading("GET /admin/version", "GET /admin/storage"),
        *reading(
            "GET /flow_runs/{id}",
            "GET /flow_runs/{id}/graph",
            "GET /flow_runs/{id}/graph-v2",
            names=named.flow_run_in_path,
        ),
        *(with_body("POST", f"/flow_runs/{what}", _RUNS, reads=True) for what in ("filter", "count", "paginate")),
        with_body("PATCH", "/flow_runs/{id}", _changed_run),
        Rule("PATCH", "/flow_runs/{id}/labels", named.flow_run_in_path),
        with_body("POST", "/flow_runs/{id}/set_state", named.flow_run_in_path),
        Rule("POST", "/flow_runs/{id}/resume", named.flow_run_in_path),
        *reading("GET /flow_runs/{id}/logs/download", names=named.flow_run_in_path),
        with_body("POST", "/flow_runs/", _started_run, makes=Kind.FLOW_RUN),
        with_body("POST", "/deployments/{id}/create_flow_run", _started_deployment, makes=Kind.FLOW_RUN),
        Rule("POST", "/flow_runs/{id}/input", named.flow_run_in_path),
        *reading("POST /flow_runs/{id}/input/filter", "GET /flow_runs/{id}/input/{name}", names=named.flow_run_in_path),
        Rule("DELETE", "/flow_runs/{id}/input/{name}", named.flow_run_in_path),
        *reading("GET /task_runs/{id}", names=named.task_run_in_path),
        *(with_body("POST", f"/task_runs/{what}", _TASK_RUNS, reads=True) for what in ("filter", "count", "paginate")),
        with_body("POST", "/task_runs/", named.new_task_run, makes=Kind.TASK_RUN),
        Rule("PATCH", "/task_runs/{id}", named.task_run_in_path),
        with_body("POST", "/task_runs/{id}/set_state", named.task_run_in_path),
        with_body("POST", "/logs/", named.log_records),
        with_body("POST", "/logs/filter", named.logs_asked_for, reads=True),
        with_body("POST", "/events", named.events),
        with_body("POST", "/artifacts/", named.whose_artifact, makes=Kind.ARTIFACT),
        Rule("PATCH", "/artifacts/{id}", named.artifact_in_path),
        *reading("GET /artifacts/{id}", names=named.artifact_in_path),
        *(with_body("POST", f"/artifacts/{what}", _ARTIFACTS, reads=True) for what in ("filter", "count")),
        Rule("POST", "/flows/"),
        *reading("GET /flows/{id}"),
        *reading("GET /deployments/{id}", names=_kind_in_path(Kind.DEPLOYMENT)),
        *reading("GET /deployments/name/{name}/{name}", names=_text_in_path(Kind.DEPLOYMENT)),
        *reading("GET /work_pools/{name}", "GET /work_pools/{name}/queues/{name}", names=_pool_in_path),
        *reading("GET /work_queues/{id}", names=_kind_in_path(Kind.WORK_QUEUE)),
        *reading("GET /block_types/{id}", "GET /block_types/slug/{name}", "GET /block_capabilities/"),
        *reading("GET /block_schemas/{id}", "GET /block_schemas/checksum/{name}", "POST /block_schemas/filter"),
        *reading(
            "GET /block_types/slug/{name}/block_documents/name/{name}", names=_text_in_path(Kind.BLOCK), blocks=True
        ),
        *reading("GET /block_types/slug/{name}/block_documents", blocks=True),
        *reading("GET /block_documents/{id}", "POST /block_documents/filter", blocks=True),
        *reading("GET /variables/name/{name}", names=_text_in_path(Kind.VARIABLE)),
        with_body("POST", "/variables/", _variable_in_body),
        with_body("PATCH", "/variables/name/{name}", _changed_variable),
        Rule("DELETE", "/variables/name/{name}", _text_in_path(Kind.VARIABLE)),
        with_body("POST", "/concurrency_limits/increment", _slots_of_task),
        with_body("POST", "/concurrency_limits/decrement", _slots_of_task),
        with_body("POST", "/v2/concurrency_limits/increment-with-lease", _held_slots),
        Rule("POST", "/v2/concurrency_limits/decrement-with-lease"),
        Rule("POST", "/v2/concurrency_limits/leases/{id}/renew"),
    )
)
