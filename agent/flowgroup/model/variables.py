"""
The job variables of a pool of type `dask`: what a deployment may ask for.

One model is the pool's form in Prefect's UI, the check when a deployment is made, and the daemon's check before it
places a run.
"""

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flowgroup.errors import Refused
from flowgroup.model import pod
from flowgroup.model.bundle import BundleRef
from flowgroup.model.parts import mapping
from flowgroup.model.pod import EnvFrom, PodExtras, ValueFrom, Volume, VolumeMount

POOL_TYPE = "dask"
DEFAULT_GROUP = "default"
_RESOURCE = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]*$")
_MEMORY = r"^\d+(\.\d+)?\s*([kMGT]i?B?)?$"
_GROUPS_MAX = 32
_MOST = 64


def is_unsaid(value: object) -> bool:
    """Whether nothing was said here: such a field is left out where it is dumped."""
    return value is None or value == {}


class WorkerGroup(BaseModel):
    """
    Workers of one kind beside the cluster's default ones, for example four with a GPU each.

    On Kubernetes `size` is one of the catalogue's, and what is said here beside it is added to what the size says;
    `resources` are what a node offers (`nvidia.com/gpu`), `dask_resources` what tasks ask for by
    `dask.annotate(resources={"GPU": 1})`. The local backend takes the numbers and `dask_resources` only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,14}[a-z0-9])?$", description="At most 16 characters: a-z, 0-9, -.")
    count: int = Field(default=1, ge=0, le=10_000, description="How many workers; with `max`: at first.")
    min: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        exclude_if=is_unsaid,
        description="At least so many; 0 if only `max` is said.",
    )
    max: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        exclude_if=is_unsaid,
        description="At most so many: how many there are follows the work.",
    )
    size: str | None = Field(default=None, max_length=63, description="A size of the catalogue.")
    image: str | None = Field(default=None, max_length=1024)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = Field(default_factory=dict)
    priority_class: str | None = Field(default=None, max_length=253)
    resources: dict[str, str | int] = Field(default_factory=dict, description="For example nvidia.com/gpu: 1.")
    spot: bool = Field(default=False, description="On spot nodes.")
    dask_resources: dict[str, float] = Field(default_factory=dict, description="For example GPU: 1.")

    @model_validator(mode="before")
    @classmethod
    def _begins_small(cls, said: Any) -> Any:
        return _begun(said, "count", "min", "max")

    @model_validator(mode="after")
    def _in_order(self) -> "WorkerGroup":
        _check_order({"min": self.min, "count": self.count, "max": self.max})
        return self

    @field_validator("name")
    @classmethod
    def _not_the_default(cls, name: str) -> str:
        if name == DEFAULT_GROUP:
            raise ValueError(f"{name!r} is the group that `workers` and `worker_size` describe")
        return name

    @field_validator("dask_resources")
    @classmethod
    def _positive(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if not _RESOURCE.match(name) or not 0 < amount < float("inf"):
                raise ValueError(f"{name}={amount} is no resource of a worker: a word and a number above 0")
        return resources


class JobVariables(BaseModel):
    """What a deployment on the pool may say. Unknown names are refused, so that a typing error is not silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(
        default=0,
        ge=0,
        le=10_000,
        title="Dask workers",
        description="How many Dask workers the flow's cluster has. 0: no Dask, the flow runs in the driver alone.",
    )
    workers_min: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        title="Dask workers at least",
        description="With a maximum: how many workers stay without work. 0 if nothing is said.",
    )
    workers_max: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        title="Dask workers at most",
        description="How many there are follows the work, up to so many; `workers` is how many there are at first.",
    )
    worker_processes: int = Field(default=1, ge=1, le=256, title="Processes per worker")
    worker_threads: int = Field(default=1, ge=1, le=1024, title="Threads per worker process")
    worker_memory: str | None = Field(
        default=None,
        pattern=_MEMORY,
        title="Memory limit of a worker process",
        description="For example 2GiB. Empty: Dask decides.",
    )
    worker_size: str | None = Field(
        default=None, max_length=63, title="Worker size", description="A size of the catalogue."
    )
    scheduler_size: str | None = Field(default=None, max_length=63, title="Scheduler size")
    driver_size: str | None = Field(default=None, max_length=63, title="Driver size")
    worker_spot: bool = Field(default=False, title="Workers on spot nodes")
    worker_groups: tuple[WorkerGroup, ...] = Field(
        default=(),
        max_length=_GROUPS_MAX,
        title="More groups of workers",
        description="Workers of other kinds beside the default ones, for example with GPUs.",
    )
    mode: Literal["shared", "exclusive", "per-run"] = Field(
        default="shared",
        title="Cluster mode",
        description="shared: all runs on one cluster; exclusive: one run at a time; per-run: a cluster for each run.",
    )
    idle_timeout_s: float | None = Field(
        default=None,
        ge=0,
        title="Idle time",
        description="Seconds without a run after which the cluster goes.",
    )
    isolation: str | None = Field(
        default=None,
        max_length=63,
        title="Isolation key",
        description="Flows in different keys never share anything.",
    )
    image: str | None = Field(default=None, max_length=1024, title="Image", description="Unused by the local backend.")
    start_script: str | None = Field(
        default=None,
        max_length=65536,
        title="Start script",
        description="Run by bash before the cluster's first run.",
    )
    env: dict[str, str | None] = Field(
        default_factory=dict,
        title="Environment variables",
        description="Values may have {{ prefect.blocks.secret.NAME }} and {{ prefect.variables.NAME }} in them.",
        json_schema_extra={"propertyNames": pod.ENV_NAMES},
    )
    env_from: tuple[EnvFrom, ...] = Field(
        default=(),
        max_length=_MOST,
        title="Environment from Secrets and ConfigMaps",
        description='Kubernetes only, for the whole cluster: [{"secretRef": {"name": "db"}}].',
    )
    env_value_from: dict[str, ValueFrom] = Field(
        default_factory=dict,
        max_length=_MOST,
        title="Environment from single keys",
        description='Kubernetes only: {"PASSWORD": {"secretKeyRef": {"name": "db", "key": "password"}}}.',
        json_schema_extra={"propertyNames": pod.ENV_NAMES},
    )
    volumes: tuple[Volume, ...] = Field(
        default=(),
        max_length=_MOST,
        title="Volumes",
        description="Kubernetes only: persistentVolumeClaim, configMap, secret or emptyDir.",
    )
    volume_mounts: tuple[VolumeMount, ...] = Field(
        default=(),
        max_length=_MOST,
        title="Where volumes are mounted",
        description='Kubernetes only, in every pod of the cluster: [{"name": "data", "mountPath": "/data"}].',
    )
    service_account: str | None = Field(
        default=None,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        title="Service account",
        description="Kubernetes only: one of those that the agent's settings allow.",
    )
    memory_limit_bytes: int | None = Field(
        default=None, ge=1, title="Memory limit of a run", description="A run above it is ended."
    )
    infrastructure_retries: int | None = Field(
        default=None,
        ge=0,
        le=100,
        title="Retries of the infrastructure",
        description="How often a run is tried again when the infrastructure fails before the flow's code begins. "
        "The flow's own retries are apart from these. Empty: the agent decides.",
    )
    retry_evicted: bool = Field(
        default=False,
        title="Begin again after an eviction",
        description="A run whose node or pod is taken away under its code begins again, as one of these retries.",
    )
    skip_if_late_s: float | None = Field(
        default=None,
        ge=0,
        title="Skip if late",
        description="A run that could start only so many seconds after its scheduled time is not run.",
    )
    bundle: BundleRef | None = Field(
        default=None, title="Bundle", description="Written by flowgroup.deploy: the flow as it was packed."
    )

    @model_validator(mode="before")
    @classmethod
    def _begins_small(cls, said: Any) -> Any:
        return _begun(said, "workers", "workers_min", "workers_max")

    @model_validator(mode="after")
    def _in_order(self) -> "JobVariables":
        _check_order({"workers_min": self.workers_min, "workers": self.workers, "workers_max": self.workers_max})
        return self

    @field_validator("worker_groups")
    @classmethod
    def _names_differ(cls, groups: tuple[WorkerGroup, ...]) -> tuple[WorkerGroup, ...]:
        names = [group.name for group in groups]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two groups are named {name!r}")
        return groups

    @field_validator("env")
    @classmethod
    def _can_be_set(cls, env: dict[str, Any]) -> dict[str, Any]:
        for name, value in env.items():
            if value is not None and "\0" in value:
                raise ValueError(f"the value of {name!r} has a NUL character in it, which no environment can have")
        return env

    @field_validator("env", "env_value_from")
    @classmethod
    def _names(cls, env: dict[str, Any]) -> dict[str, Any]:
        pod.check_names(env)
        return env

    @model_validator(mode="after")
    def _pods(self) -> Self:
        self.pod_extras()
        return self

    def pod_extras(self) -> PodExtras | None:
        """What the cluster's pods get beside the rest; None where nothing is said of it."""
        extras = PodExtras(
            env_from=self.env_from,
            env_value_from=self.env_value_from,
            volumes=self.volumes,
            volume_mounts=self.volume_mounts,
            service_account=self.service_account,
        )
        return extras if extras != PodExtras() else None


def _begun(said: Any, count: str, least: str, most: str) -> Any:
    """Where a maximum is said and no number to begin with, there are as many as at least."""
    if not isinstance(said, dict) or said.get(most) is None or said.get(count):
        return said
    return {**said, count: said.get(least) or 0}


def _check_order(said: dict[str, int | None]) -> None:
    """Raises ValueError, naming the field that is wrong. `said`: least, count and most, by their fields' names."""
    (least_name, least), (count_name, count), (most_name, most) = said.items()
    if most is None:
        if least is not None:
            raise ValueError(f"{least_name} is {least}, but {most_name} is not said: say both")
        return
    for name, value in ((least_name, least), (count_name, count)):
        if value is not None and value > most:
            raise ValueError(f"{name} is {value}, which is more than {most_name}, {most}")
    if least is not None and count is not None and count < least:
        raise ValueError(f"{count_name} is {count}, which is less than {least_name}, {least}")


def parse(values: dict[str, Any]) -> JobVariables:
    """Check what pool, deployment and run say together. Refused names each field that is wrong."""
    try:
        return JobVariables.model_validate(values)
    except ValidationError as exc:
        raise Refused(
            f"job variables of the deployment are wrong: {_told(exc)}. Correct them and deploy again."
        ) from exc
    except UnicodeError as exc:
        raise Refused(
            "job variables of the deployment are wrong: a letter in them is half of one (a lone surrogate). Correct them and "
            "deploy again."
        ) from exc


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Pool defaults, then the deployment's, then the run's; `env` is merged by name, all else is replaced."""
    env: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    wrong: dict[str, Any] = {}
    for layer in layers:
        layer_env = layer.get("env")
        if isinstance(layer_env, dict):
            env.update(layer_env)
        elif layer_env is not None:
            wrong["env"] = layer_env  # kept as it is, so that the check names it
        whole.update({name: value for name, value in layer.items() if name != "env" and value is not None})
    return {**whole, "env": env, **wrong}


def pool_defaults(base_job_template: dict[str, Any]) -> dict[str, Any]:
    """The defaults that a pool's base job template gives to its variables."""
    properties = mapping(mapping(base_job_template.get("variables")).get("properties"))
    return {
        name: schema["default"]
        for name, schema in properties.items()
        if isinstance(schema, dict) and schema.get("default") is not None
    }


def allows_unsigned(base_job_template: dict[str, Any]) -> bool:
    """
    Whether the pool lets unsigned code run although public keys are configured.

    It stands in the template's `job_configuration`, not among its variables: a deployment must not be able to set it.
    """
    return mapping(base_job_template.get("job_configuration")).get("allow_unsigned") is True


def base_job_template() -> dict[str, Any]:
    """The base job template of a pool of ours. Prefect's UI makes its form from `variables`."""
    schema = JobVariables.model_json_schema()
    properties = schema["properties"]
    variables = {
        "type": "object",
        "description": "What a deployment may say about its flow's cluster.",
        "properties": properties,
        "definitions": schema.get("$defs", {}),
        "required": [],
        "additionalProperties": False,
    }
    configuration: dict[str, Any] = {name: "{{ " + name + " }}" for name in properties}
    return {"job_configuration": {**configuration, "allow_unsigned": False}, "variables": _rebased(variables)}


def _rebased(node: Any) -> Any:
    """pydantic points at `#/$defs/`; Prefect's forms look under `#/definitions/`."""
    if isinstance(node, dict):
        return {
            name: value.replace("#/$defs/", "#/definitions/") if name == "$ref" else _rebased(value)
            for name, value in node.items()
        }
    return [_rebased(item) for item in node] if isinstance(node, list) else node


def _told(exc: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'value'}: {error['msg']}"
        for error in exc.errors(include_url=False)
    )
