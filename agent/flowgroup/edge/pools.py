"""A work pool as far as we read it, and the variables that it must have."""

from dataclasses import dataclass
from typing import Any

from flowgroup.model.parts import mapping
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
    configuration, variables = mapping(template.get("job_configuration")), mapping(template.get("variables"))
    properties = mapping(variables.get("properties"))
    if set(ours["variables"]["properties"]) <= set(properties):
        return template
    return {
        **template,
        "job_configuration": {**ours["job_configuration"], **configuration},
        "variables": {
            **ours["variables"],
            **variables,
            "properties": {**ours["variables"]["properties"], **properties},
            "definitions": {**ours["variables"]["definitions"], **mapping(variables.get("definitions"))},
        },
    }
