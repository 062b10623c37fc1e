"""What a run is, at each step of its line, and how it can end."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from flowgroup.model.ids import AttemptId, ClusterName, DeploymentId, FlowId, RunId, Token
from flowgroup.model.spec import ClusterSpec


@dataclass(frozen=True, slots=True)
class DueRun:
    """A run that the API says should start. Nobody owns it yet."""

    id: RunId
    name: str
    flow_id: FlowId
    deployment_id: DeploymentId | None
    due_at: datetime
    job_variables: dict[str, Any]
    tags: tuple[str, ...] = ()
    deployment_version: str | None = None
    """The deployment's version when the run was made: a cached deployment of another version is out of date."""
    work_queue_id: str | None = None
    told: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The run as the API told it."""
    scheduled_for: datetime | None = None
    """The time that it was scheduled for at first; `due_at` is that of its next try."""
    state_name: str = "Scheduled"
    run_count: int = 0


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """The API did not give the run to us; look at it again after `delay_s`, if it is still due then."""

    reason: str
    delay_s: float
    is_limit: bool = False
    """Its deployment's concurrency limit is reached, so that no other run of it would be given either."""


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run that the API has given to us and to nobody else. `lease` is its deployment's concurrency lease, if any."""

    due: DueRun
    attempt: AttemptId
    lease: str | None = None
    told: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    """Its state as the API told it; None after a claim whose answer was lost."""

    @property
    def id(self) -> RunId:
        return self.due.id


@dataclass(frozen=True, slots=True)
class SentRun:
    """A run that a driver has, or had: `watch` tells how it ends."""

    id: RunId
    attempt: AttemptId
    cluster: ClusterName
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as far as we read it."""

    id: DeploymentId
    name: str
    flow_id: FlowId
    flow_name: str
    version: str | None
    entrypoint: str | None
    pull_steps: tuple[dict[str, Any], ...]
    job_variables: dict[str, Any]
    tags: tuple[str, ...] = ()
    flow_tags: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    """What Prefect adds to a deployment's name in events: its branch and version, where it has them."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a run's child need not ask the API for. None: it is not known."""

    flow_run: dict[str, Any] | None = field(default=None, repr=False)
    related: list[dict[str, Any]] | None = field(default=None, repr=False)
    default_result_storage: str | None = None
    is_default_result_storage_known: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a run goes and what it gets there, resolved from pool, deployment and run."""

    spec: ClusterSpec
    env: dict[str, str] = field(repr=False)
    deployment: Deployment | None
    idle_timeout_s: float
    bundle: "Any | None" = None  # model.bundle.BundleRef
    memory_limit_bytes: int | None = None
    secret_env: frozenset[str] = frozenset()  # names of variables whose values are secrets
    skip_if_late_s: float | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An attempt that the relay knows, with the token that its child will show, and the seal that its driver keeps."""

    attempt: AttemptId
    token: Token
    seal: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """The engine inside the child has told the API how the run ended. Nothing is left to say."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The run ended and could not say so itself. `reason` names the cause and the remedy."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    reason: str


@dataclass(frozen=True, slots=True)
class GivenBack:
    """
    The run is Scheduled again, `after_s` from now, in a state of this name. Its attempt never reached user code, unless
    `from_running` says that it may have: else only a Pending run is given back.
    """

    reason: str
    after_s: float = 0.0
    name: str | None = None
    from_running: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """
    The infrastructure failed under the attempt, or before it: whether the run is tried again is decided by how far it was.

    `was_taken`: what it ran on was taken away (evicted, preempted, a node lost), by no fault of the run's.
    """

    reason: str
    was_taken: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Nobody wants the run any more, although it could start: it is not run. `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """
    The engine had told how the run ended, before a state that was long on its way was carried out over it. All as the
    API has it in the run's history.
    """

    type: Literal["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
    name: str
    message: str
    data: Any = field(default=None, repr=False)


Sayable = Reported | Crashed | Cancelled | GivenBack | Skipped | Ended
Outcome = Sayable | Lost
