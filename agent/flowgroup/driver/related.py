"""What Prefect's events of a run are related to, as the engine would look it up: from what the order says."""

from dataclasses import dataclass
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events.related import object_as_related_resource, tags_as_related_resources
from prefect.events.schemas.events import RelatedResource

_MOST = 100  # what an event's schema takes


@dataclass(frozen=True)
class Relations:
    """`resources` are those of the run `run_id`: flow, deployment, work queue, work pool and their tags."""

    run_id: str
    resources: tuple[RelatedResource, ...]

    @classmethod
    def told(cls, run_id: str, resources: list[dict[str, Any]]) -> "Relations":
        return cls(run_id, tuple(RelatedResource.model_validate(resource) for resource in resources))

    def of(self, event: Any) -> list[RelatedResource]:
        """What to add to an event that is emitted here and now; nothing outside of a run, and nothing to lineage events."""
        flow_context, task_context = FlowRunContext.get(), TaskRunContext.get()
        run = flow_context.flow_run if flow_context else None
        if run is None or "prefect.resource.lineage-group" in event.resource:
            return []
        found = [object_as_related_resource(kind="flow-run", role="flow-run", object=run)]
        if task_context:
            found.append(object_as_related_resource(kind="task-run", role="task-run", object=task_context.task_run))
        found += self._around(run, getattr(flow_context, "flow", None))
        tags = set(run.tags) | set(task_context.task_run.tags if task_context else ())
        found += tags_as_related_resources(tags)
        return _new(found, {resource.id for resource in event.involved_resources})[: max(0, _MOST - len(event.related))]

    def _around(self, run: Any, flow: Any) -> list[RelatedResource]:
        if str(run.id) == self.run_id:
            return list(self.resources)
        named = {"prefect.resource.id": f"prefect.flow.{run.flow_id}", "prefect.resource.role": "flow"}
        return [RelatedResource.model_validate({**named, "prefect.resource.name": flow.name})] if flow else []


def _new(found: list[RelatedResource], there: set[str]) -> list[RelatedResource]:
    kept: dict[str, RelatedResource] = {}
    for resource in found:
        if resource.id not in there:
            kept.setdefault(resource.id, resource)
    return list(kept.values())
