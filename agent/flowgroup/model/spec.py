"""A cluster's resolved spec, and the generation that its hash names."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import not_
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flowgroup.model.bundle import canonical_json
from flowgroup.model.ids import FIRST_RELAY, ClusterName, FlowId, RelayName, RunId, digest, slug
from flowgroup.model.pod import PodExtras
from flowgroup.model.variables import DEFAULT_GROUP, JobVariables, WorkerGroup, is_unsaid

# A fork shares these with its parent, so they belong to the generation and not to the run.
_PROCESS_WIDE = ("DASK_", "PYTHON", "LD_", "MALLOC_")
_PROCESS_WIDE_ENDINGS = ("_NUM_THREADS",)


class ClusterSpec(BaseModel):
    """
    All that makes one cluster what it is. Parameters, code version, limits and a run's own environment are not in it.

    A field that came later is dumped only where it is said: it moves no name of a cluster that is there, and a driver of an
    older image can read the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow_id: FlowId
    flow_name: str
    isolation: str
    mode: Literal["shared", "exclusive", "per-run"] = "shared"
    workers: int = 0
    workers_min: int | None = Field(default=None, exclude_if=is_unsaid)
    workers_max: int | None = Field(default=None, exclude_if=is_unsaid)
    worker_processes: int = 1
    worker_threads: int = 1
    worker_memory: str | None = None
    worker_size: str | None = None
    scheduler_size: str | None = None
    driver_size: str | None = None
    worker_spot: bool = False
    worker_groups: tuple[WorkerGroup, ...] = ()
    image: str | None = None
    start_script: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    run_id: RunId | None = None
    """Only for `per-run`: the run that the cluster is for."""
    pod: PodExtras | None = Field(default=None, exclude_if=is_unsaid)
    secret_env: dict[str, str] = Field(default_factory=dict, exclude_if=is_unsaid)
    """Variables of the cluster's with secret values: a keyed hash of each, so that another value is another cluster."""
    relay: RelayName = Field(default=FIRST_RELAY, exclude_if=not_)
    """Through which relay the cluster's runs speak, for as long as it lives."""
    secrets: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)
    """Their values, while a cluster is made: they are never dumped, and so are in no name and in no file."""

    @property
    def name(self) -> ClusterName:
        """The generation's name: the same spec gives the same name in every process."""
        flow = slug(self.flow_name)
        if flow[0].isdigit():  # the name of a Kubernetes Service begins with a letter
            flow = slug(f"flow-{flow}")
        return ClusterName(f"{flow}-{digest(canonical_json(self.model_dump(mode='json')))[:12]}")

    @property
    def has_workers(self) -> bool:
        """Whether the cluster has a scheduler and workers, or its driver is alone."""
        return any(group.most for group in self.groups)

    @property
    def groups(self) -> tuple["Numbers", ...]:
        """How many worker processes of each group there are to be, the default group first."""
        each = self.worker_processes
        most = self.workers if self.workers_max is None else self.workers_max
        least = self.workers if self.workers_max is None else self.workers_min or 0
        default = Numbers(DEFAULT_GROUP, self.workers * each, least * each, most * each)
        return (default, *(_numbers(group) for group in self.worker_groups))


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many workers a group has at first, at least and at most; with all three the same it never changes."""

    group: str
    first: int
    least: int
    most: int

    @property
    def is_fixed(self) -> bool:
        return self.least == self.most


def _numbers(group: WorkerGroup) -> Numbers:
    if group.max is None:
        return Numbers(group.name, group.count, group.count, group.count)
    return Numbers(group.name, group.count, group.min or 0, group.max)


def is_process_wide(name: str) -> bool:
    """Whether an environment variable takes effect only when a process starts, so that a fork cannot be given it."""
    return name.startswith(_PROCESS_WIDE) or name.endswith(_PROCESS_WIDE_ENDINGS)


def process_wide(env: Mapping[str, str | None]) -> dict[str, str]:
    """That part of an environment."""
    return {name: value for name, value in env.items() if value is not None and is_process_wide(name)}


def spec_of(
    variables: JobVariables,
    *,
    flow_id: FlowId,
    flow_name: str,
    pool: str,
    run_id: RunId,
    env_of_run: frozenset[str] = frozenset(),
) -> ClusterSpec:
    """
    The cluster that a run with these job variables belongs on.

    The generation's environment is what pool and deployment say, so that a task on a worker finds what its flow finds.
    Without workers it is the process-wide part alone (DASK_*, PYTHON*, LD_*, MALLOC_*, *_NUM_THREADS), and the rest is given
    to each run. What the run itself sets (`env_of_run`) is its own process's in any case, and no worker has it: neither this
    value nor the one that it replaces.
    """
    spec = ClusterSpec(
        flow_id=flow_id,
        flow_name=flow_name,
        isolation=variables.isolation or pool,
        mode=variables.mode,
        workers=variables.workers,
        workers_min=variables.workers_min,
        workers_max=variables.workers_max,
        worker_processes=variables.worker_processes,
        worker_threads=variables.worker_threads,
        worker_memory=variables.worker_memory,
        worker_size=variables.worker_size,
        scheduler_size=variables.scheduler_size,
        driver_size=variables.driver_size,
        worker_spot=variables.worker_spot,
        worker_groups=variables.worker_groups,
        image=variables.image,
        start_script=variables.start_script,
        run_id=run_id if variables.mode == "per-run" else None,
        pod=variables.pod_extras(),
    )
    said = {name: value for name, value in variables.env.items() if value is not None and name not in env_of_run}
    return spec.model_copy(update={"env": said if spec.has_workers else process_wide(said)})


def to_be_signed(variables: JobVariables) -> dict[str, str]:
    """
    The part of `env` that an author's signature covers: what lets somebody else's code in as processes start.

    With a start script that is all of it: bash and what it calls take code by the names of many variables.
    """
    if variables.start_script:
        return {name: value for name, value in variables.env.items() if value is not None}
    return process_wide(variables.env)


def sealed(spec: ClusterSpec, names: frozenset[str], key: str) -> ClusterSpec:
    """The same spec, in which the values of these variables are secret."""
    secrets = {name: value for name, value in spec.env.items() if name in names}
    return spec.model_copy(
        update={
            "env": {name: value for name, value in spec.env.items() if name not in secrets},
            "secret_env": {name: _keyed(key, name, value) for name, value in secrets.items()},
            "secrets": secrets,
        }
    )


def through(spec: ClusterSpec, relays: Sequence[RelayName]) -> ClusterSpec:
    """
    The same spec, through the relay of its flow group.

    The group's highest hash with a relay decides (rendezvous hashing): one relay more takes its share of the groups from the
    others, and one less gives its own away; all others stay where they are.
    """
    chosen = max(relays, key=lambda relay: digest("relay", relay, spec.flow_id, spec.isolation))
    return spec.model_copy(update={"relay": chosen})


def _keyed(key: str, name: str, value: str) -> str:
    return hmac.digest(key.encode(), f"secret env\0{name}\0{value}".encode(), "sha256").hex()[:24]
