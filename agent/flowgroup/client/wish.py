"""What an author wishes a deployment to be, checked before anything is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.types.names import BANNED_CHARACTERS
from prefect.utilities.schema_tools.validation import validate

from flowgroup.bundles import Packed
from flowgroup.client.cluster import Cluster
from flowgroup.errors import Refused
from flowgroup.model import variables


@dataclass(frozen=True, slots=True)
class Wish:
    """What the deployment shall be, but for the bundle's reference."""

    flow: Flow[..., Any]
    name: str
    pool: str
    queue: str | None
    variables: dict[str, Any]
    schedules: list[DeploymentScheduleCreate] | None
    parameters: dict[str, Any]
    tags: list[str]
    description: str
    concurrency_limit: int | None
    paused: bool | None
    packed: Packed

    @property
    def full_name(self) -> str:
        return f"{self.flow.name}/{self.name}"


def require_names(flow: Any, name: str) -> None:
    """Raises Refused unless `flow` is a flow and `name` may name a deployment."""
    if not isinstance(flow, Flow):
        raise Refused(f"{flow!r} is not a Prefect flow: put @flow above the function, or name the flow itself")
    wrong = sorted(set(name) & set(BANNED_CHARACTERS))
    if not name.strip() or wrong:
        raise Refused(f"name={name!r} cannot name a deployment: use one without {' '.join(BANNED_CHARACTERS)}")


def job_variables(
    cluster: Cluster | None,
    image: str | None,
    start_script: str | None,
    env: Mapping[str, str | None] | None,
    more: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The job variables that the arguments of `deploy` make, only those that were said. Raises Refused."""
    said: dict[str, Any] = cluster.job_variables() if cluster is not None else {"workers": 0}
    said |= {"image": image, "start_script": start_script, "env": dict(env) if env else None}
    values = {key: value for key, value in {**said, **(more or {})}.items() if value is not None}
    if "bundle" in values:
        raise Refused("job_variables may not say bundle: deploy writes it")
    variables.parse(values)
    return values


def parameters(flow: Flow[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as they are kept. Raises Refused for unknown names and values that the flow would not take."""
    schema = flow.parameters.model_dump(mode="json")
    known = schema["properties"]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Refused(
            f"flow {flow.name!r} has no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}. Correct parameters="
        )
    values = flow.serialize_parameters(dict(given))
    errors = validate(values, schema, ignore_required=True)
    if errors:
        told = "; ".join(f"{'.'.join(str(part) for part in error.path)}: {error.message}" for error in errors)
        raise Refused(
            f"parameters= do not fit flow {flow.name!r}: {told}. Correct the values or the flow's annotations"
        )
    return values
