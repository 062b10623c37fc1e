"""A work pool as far as we read it, and the variables that it must have."""

from dataclasses import dataclass
from typing import Any

from flowgroup.model.variables import base_job_template


@dataclass(frozen=True, slots=True)
class Pool:
    """A work pool as far as we read it."""

    id: str
    name: str
    template: dict[str, Any]


def completed(template: dict[str, Any]) -> dict[str, Any]:
    """The operator's template, with those of our variables that it lacks. Theirs stay as they are."""
    ours = base_job_template()
    if not template:
        return ours
    configuration, variables = template.get("job_configuration") or {}, template.get("variables") or {}
    properties = variables.get("properties") or {}
    if set(ours["variables"]["properties"]) <= set(properties):
        return template
    return {
        **template,
        "job_configuration": {**ours["job_configuration"], **configuration},
        "variables": {
            **ours["variables"],
            **variables,
            "properties": {**ours["variables"]["properties"], **properties},
            "definitions": {**ours["variables"]["definitions"], **(variables.get("definitions") or {})},
        },
    }
