"""
What a task run gets of Prefect's context: what its flow run's tasks share, made once (the frame), and its own.

Of the settings only those sections go along that say how tasks and their results are treated: the rest is the child's own,
and holds the run's token.
"""

from typing import Any

import cloudpickle
from prefect.context import (
    AssetContext,
    SettingsContext,
    TagsContext,
    TaskRunContext,
    get_settings_context,
    serialize_context,
)
from prefect.settings import get_current_settings

_SETTINGS = "flowgroup_settings"
_OF_THE_CALL = ("task_run_context", "tags_context", "asset_context")


class _Unsaid(SettingsContext):
    """Settings that are read as usual, and of which nothing goes along: to write all of them down takes 25 ms."""

    def serialize(self, include_secrets: bool = True) -> dict[str, Any]:
        return {}


def of_run(runner: Any) -> bytes:
    """The frame of the flow run whose context this is. Tasks of its tasks are submitted through `runner`."""
    settings = get_current_settings()
    with _Unsaid(profile=get_settings_context().profile, settings=settings):
        frame = {name: value for name, value in serialize_context().items() if name not in _OF_THE_CALL}
    frame[_SETTINGS] = {"tasks": settings.tasks, "results": settings.results}
    flow_context = frame["flow_run_context"]
    if flow_context:
        flow = flow_context["flow"] = _copy_of(flow_context["flow"])
        flow.task_runner = runner
    return bytes(cloudpickle.dumps(frame))


def of_call(task: Any, task_run_id: Any, inputs: dict[str, set[Any]]) -> dict[str, Any]:
    """The rest of the context, for one call of a task."""
    task_run, tags = TaskRunContext.get(), TagsContext.get()
    assets = AssetContext.from_task_and_inputs(task, task_run_id, inputs, copy_to_child_ctx=True)
    return {
        "task_run_context": task_run.serialize() if task_run else {},
        "tags_context": tags.serialize() if tags else {},
        "asset_context": assets.serialize(),
    }


def settings_of(context: dict[str, Any], base: SettingsContext) -> SettingsContext:
    """On a worker: `base` with the sections that came with a task's context, which are taken out of it."""
    sections = context.pop(_SETTINGS)
    here = base.settings.results.local_storage_path  # a path of the child's
    sections["results"] = sections["results"].model_copy(update={"local_storage_path": here})
    settings = base.settings.model_copy(update=sections)
    return SettingsContext(profile=base.profile, settings=settings)


def _copy_of(flow: Any) -> Any:
    copied = object.__new__(type(flow))
    copied.__dict__.update(flow.__dict__)
    return copied
