"""Which ids a call names, in its path and in its body. Ids in bodies count as much as ids in paths."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flowgroup.relay.tokens import Kind, Named

_FLOW_RUN = "prefect.flow-run."
_TASK_RUN = "prefect.task-run."


class Malformed(ValueError):
    """A call that cannot be judged."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call, taken apart: the ids in its path in order, and its body as JSON."""

    ids: tuple[str, ...]
    body: Any


def uuid_of(value: Any) -> str:
    """The one spelling of an id. Raises Malformed."""
    try:
        return str(uuid.UUID(value))
    except (ValueError, AttributeError, TypeError) as exc:
        raise Malformed("an id is not a UUID") from exc


def parse(raw: bytes | str) -> Any:
    """
    JSON as every reader would understand it: UTF-8, no name twice in one object. Raises Malformed.

    Of a name given twice we might judge the one, and the API take the other.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as exc:
        raise Malformed(f"the body is not JSON that we accept: {exc}") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return made


def nothing(call: Call) -> Iterator[Named]:
    yield from ()


def flow_run_in_path(call: Call) -> Iterator[Named]:
    yield Named(Kind.FLOW_RUN, call.ids[0])


def task_run_in_path(call: Call) -> Iterator[Named]:
    yield Named(Kind.TASK_RUN, call.ids[0])


def artifact_in_path(call: Call) -> Iterator[Named]:
    yield Named(Kind.ARTIFACT, call.ids[0])


def parent_in_body(call: Call) -> Iterator[Named]:
    """A new flow run: below whose task it is made."""
    yield from _optional(_object(call.body), "parent_task_run_id", Kind.TASK_RUN, may_be_new=True)


def new_task_run(call: Call) -> Iterator[Named]:
    body = _object(call.body)
    yield from _optional(body, "id", Kind.TASK_RUN, may_be_new=True)
    yield from _optional(body, "flow_run_id", Kind.FLOW_RUN)


def task_run_in_body(call: Call) -> Iterator[Named]:
    """A call about a task run's slots (concurrency limits by tag)."""
    yield from _optional(_object(call.body), "task_run_id", Kind.TASK_RUN, may_be_new=True)


def holder_in_body(call: Call) -> Iterator[Named]:
    """Who is to hold a lease."""
    holder = _object(call.body).get("holder")
    if holder is None:
        return
    kinds = {"flow_run": Named(Kind.FLOW_RUN, ""), "task_run": Named(Kind.TASK_RUN, "", may_be_new=True)}
    kind = kinds.get(str(_object(holder).get("type")))
    if kind is None:
        raise Malformed("the holder of a lease is a flow_run or a task_run")
    yield Named(kind.kind, uuid_of(holder.get("id")), kind.may_be_new)


def whose_artifact(call: Call) -> Iterator[Named]:
    body = _object(call.body)
    yield from _optional(body, "flow_run_id", Kind.FLOW_RUN)
    yield from _optional(body, "task_run_id", Kind.TASK_RUN, may_be_new=True)


def log_records(call: Call) -> Iterator[Named]:
    """Each record says whose it is; a record that does not is nobody's, and harms nobody."""
    for record in _list(call.body):
        yield from log_names(record)


def log_names(record: Any) -> Iterator[Named]:
    yield from _optional(_object(record), "flow_run_id", Kind.FLOW_RUN)
    yield from _optional(record, "task_run_id", Kind.TASK_RUN, may_be_new=True)


def logs_asked_for(call: Call) -> Iterator[Named]:
    """Reading logs: only by naming own flow runs, or own task runs."""
    asked = _object(_object(call.body).get("logs") or {})
    if asked.get("operator", "and_") != "and_":
        raise Malformed("logs can be read only with the operator and_")
    for field, kind in (("flow_run_id", Kind.FLOW_RUN), ("task_run_id", Kind.TASK_RUN)):
        ids = _object(asked.get(field) or {}).get("any_")
        if ids:
            yield from (Named(kind, uuid_of(id)) for id in _list(ids))
            return
    raise Malformed("logs can be read only by flow_run_id or task_run_id")


def events(call: Call) -> Iterator[Named]:
    for event in _list(call.body):
        yield from event_names(event)


def event_names(event: Any) -> Iterator[Named]:
    """
    The flow runs and task runs that an event is about, or is related to, or carries as a task run's new row.
    """
    event = _object(event)
    yield from _resource(_object(event.get("resource") or {}))
    for related in _list(event.get("related") or []):
        yield from _resource(_object(related))
    # Prefect's server makes a task run's row out of its events, and there the payload wins over the resource.
    payload = event.get("payload")
    row = payload.get("task_run") if isinstance(payload, dict) else None
    if isinstance(row, dict) and str(event.get("event", "")).startswith("prefect.task-run"):
        yield from _optional(row, "id", Kind.TASK_RUN, may_be_new=True)
        yield from _optional(row, "flow_run_id", Kind.FLOW_RUN)


def _resource(labels: dict[str, Any]) -> Iterator[Named]:
    id = labels.get("prefect.resource.id")
    if not isinstance(id, str):
        return
    if id.startswith(_FLOW_RUN):
        yield Named(Kind.FLOW_RUN, uuid_of(id.removeprefix(_FLOW_RUN)))
    elif id.startswith(_TASK_RUN):
        yield Named(Kind.TASK_RUN, uuid_of(id.removeprefix(_TASK_RUN)), may_be_new=True)


def _optional(body: dict[str, Any], field: str, kind: Kind, *, may_be_new: bool = False) -> Iterator[Named]:
    value = body.get(field)
    if value is not None:
        yield Named(kind, uuid_of(value), may_be_new)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed("the body is not of the form that Prefect's API takes: an object is missing")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed("the body is not of the form that Prefect's API takes: a list is missing")
    return value
