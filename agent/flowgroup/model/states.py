"""What Prefect's API says about a run's state, and what we may say over it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from flowgroup.model.ids import AttemptId, DeploymentId, RunId
from flowgroup.model.runs import Cancelled, Crashed, Ended, GivenBack, Sayable, Skipped

StateType = Literal[
    "SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING"
]
AWAITING_INFRASTRUCTURE = "AwaitingInfrastructure"
"""The name of Scheduled after the infrastructure failed: how many there are in a run's history is how often it did."""
SKIPPED = "Skipped"
TERMINAL: frozenset[str] = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


@dataclass(frozen=True, slots=True)
class RunState:
    """
    One state of a run.

    `reschedules`: a pause after which the run comes back as Scheduled (Prefect calls it suspended), so that nobody
    has to carry it meanwhile.
    """

    type: StateType
    name: str
    message: str | None = None
    attempt: AttemptId | None = None
    lease: str | None = None
    reschedules: bool = False

    @property
    def is_terminal(self) -> bool:
        return self.type in TERMINAL

    @property
    def is_suspended(self) -> bool:
        """Prefect knows a suspension, in which the run's process ends, from a pause by the state's name alone."""
        return self.type == "PAUSED" and self.name == "Suspended"


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run as the API has it now. `waits_in_process`: its engine sleeps until a retry, and no agent is offered it."""

    id: RunId
    name: str
    state: RunState
    deployment_id: DeploymentId | None = None
    waits_in_process: bool = False
    job_variables: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Stops:
    """
    Which runs of those that are under way are not to go on as they do: `cancel` and `suspend` are asked to, `over` are
    Cancelled for the API already, or deleted.
    """

    cancel: frozenset[RunId] = frozenset()
    suspend: frozenset[RunId] = frozenset()
    over: frozenset[RunId] = frozenset()


@dataclass(frozen=True, slots=True)
class Saying:
    """A state that the daemon proposes for a run. `data`: what the engine said of the result, if it said this state."""

    type: StateType
    message: str
    after_s: float = 0.0
    name: str | None = None
    data: Any = field(default=None, repr=False)


def to_say(seen: SeenRun, outcome: Sayable) -> Saying | None:
    """
    What must be said about a run whose attempt had this outcome; None when the API has the truth already.

    A terminal state stands. A run that is Scheduled or suspended has left our attempt behind, unless its engine was
    to wake up in a process that is no more. Nothing but Cancelled may follow Cancelling.
    """
    if seen.state.is_terminal or is_left_behind(seen):
        return None
    saying = None
    match outcome:
        case Ended(type=type_, name=name, message=message, data=data):
            saying = Saying(type_, message, name=name, data=data)
        case Cancelled(reason=reason):
            saying = Saying("CANCELLED", reason)
        case Skipped(reason=reason):
            saying = Saying("CANCELLED", reason, name=SKIPPED)
        case Crashed(reason=reason) | GivenBack(reason=reason) if seen.state.type == "CANCELLING":
            saying = Saying("CANCELLED", f"Cancelled; its process had ended already: {reason}")
        case GivenBack(reason=reason, after_s=after_s, name=name) if _may_come_back(seen, outcome):
            saying = Saying("SCHEDULED", reason, after_s, name)
        case Crashed(reason=reason) | GivenBack(reason=reason):
            saying = Saying("CRASHED", reason)
    return saying


def _may_come_back(seen: SeenRun, outcome: GivenBack) -> bool:
    return seen.state.type == "PENDING" or (outcome.from_running and seen.state.type == "RUNNING")


def is_left_behind(seen: SeenRun) -> bool:
    """Whether the run waits without a process, until it is Scheduled or claimed again."""
    if seen.state.type == "SCHEDULED":
        return not seen.waits_in_process
    return seen.state.is_suspended or (seen.state.type == "PAUSED" and seen.state.reschedules)
