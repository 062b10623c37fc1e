"""Which ids a call names, in its path and in its body. Ids in bodies count as much as ids in paths."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flowgroup.relay.tokens import Kind, Named

_FLOW_RUN = "prefect.flow-run."
_TASK_RUN = "prefect.task-run."


class Malformed(ValueError):
    """A call that cannot be judged."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call, taken apart: the ids in its path in order, its body as JSON, and the names in its path."""

    ids: tuple[str, ...]
    body: Any
    texts: tuple[str, ...] = ()


Names = Callable[[Call], Iterable[Named]]
"""What a call names, from the call. Raises Malformed while it is gone through."""


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
    yield from _optional(object_of(call.body), "parent_task_run_id", Kind.TASK_RUN, may_be_new=True)


def new_task_run(call: Call) -> Iterator[Named]:
    body = object_of(call.body)
    yield from _optional(body, "id", Kind.TASK_RUN, may_be_new=True)
    yield from _optional(body, "flow_run_id", Kind.FLOW_RUN)


def task_run_in_body(call: Call) -> Iterator[Named]:
    """A call about a task run's slots (concurrency limits by tag)."""
    yield from _optional(object_of(call.body), "task_run_id", Kind.TASK_RUN, may_be_new=True)


def holder_in_body(call: Call) -> Iterator[Named]:
    """Who is to hold a lease."""
    holder = object_of(call.body).get("holder")
    if holder is None:
        return
    kinds = {"flow_run": Named(Kind.FLOW_RUN, ""), "task_run": Named(Kind.TASK_RUN, "", may_be_new=True)}
    kind = kinds.get(str(object_of(holder).get("type")))
    if kind is None:
        raise Malformed("the holder of a lease is a flow_run or a task_run")
    yield Named(kind.kind, uuid_of(holder.get("id")), kind.may_be_new)


def whose_artifact(call: Call) -> Iterator[Named]:
    body = object_of(call.body)
    yield from _optional(body, "flow_run_id", Kind.FLOW_RUN)
    yield from _optional(body, "task_run_id", Kind.TASK_RUN, may_be_new=True)


def log_records(call: Call) -> Iterator[Named]:
    """Each record says whose it is; a record that does not is nobody's, and harms nobody."""
    for record in _list(call.body):
        yield from log_names(record)


def log_names(record: Any) -> Iterator[Named]:
    yield from _optional(object_of(record), "flow_run_id", Kind.FLOW_RUN)
    yield from _optional(record, "task_run_id", Kind.TASK_RUN, may_be_new=True)


def logs_asked_for(call: Call) -> Iterator[Named]:
    """Reading logs: only by naming own flow runs, or own task runs."""
    asked = object_of(object_of(call.body).get("logs") or {})
    for field, kind in (("flow_run_id", Kind.FLOW_RUN), ("task_run_id", Kind.TASK_RUN)):
        if ids := only(asked, field):
            yield from (Named(kind, uuid_of(id)) for id in ids)
            return
    raise Malformed("logs can be read only by flow_run_id or task_run_id")


def only(asked: dict[str, Any], field: str) -> list[Any]:
    """The ids that a filter keeps to in one of its fields; [] if it does not. Raises Malformed."""
    inner = object_of(asked.get(field) or {})
    if any(one.get("operator", "and_") != "and_" for one in (asked, inner)):
        raise Malformed("this can be read only with the operator and_")
    return _list(inner.get("any_") or [])


def events(call: Call) -> Iterator[Named]:
    for event in _list(call.body):
        yield from event_names(event)


def event_names(event: Any) -> Iterator[Named]:
    """
    The flow runs and task runs that an event is about, or is related to, or carries as a task run's new row.
    """
    event = object_of(event)
    yield from _resource(object_of(event.get("resource") or {}))
    for related in _list(event.get("related") or []):
        yield from _resource(object_of(related))
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


def object_of(value: Any) -> dict[str, Any]:
    """Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed("the body is not of the form that Prefect's API takes: an object is missing")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed("the body is not of the form that Prefect's API takes: a list is missing")
    return value
