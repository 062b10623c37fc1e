"""The shapes of what Prefect's API answers, as far as we read them, and how they become our types."""

from datetime import datetime
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowgroup import log
from flowgroup.errors import Permanent
from flowgroup.model.ids import AttemptId, DeploymentId, FlowId, RunId
from flowgroup.model.runs import DueRun
from flowgroup.model.states import RunState, SeenRun, StateType

M = TypeVar("M", bound="Shape")


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment


class Shape(BaseModel):
    """One kind of answer. Fields that we do not read may be anything."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Details(Shape):
    transition_id: str | None = None
    deployment_concurrency_lease_id: str | None = None
    pause_reschedule: bool | None = None
    scheduled_time: datetime | None = None


class State(Shape):
    type: StateType
    name: str = ""
    message: str | None = None
    timestamp: datetime | None = None
    state_details: Details = Details()
    data: Any = None

    def ours(self) -> RunState:
        return RunState(
            type=self.type,
            name=self.name,
            message=self.message,
            attempt=AttemptId(self.state_details.transition_id) if self.state_details.transition_id else None,
            lease=self.state_details.deployment_concurrency_lease_id,
            reschedules=bool(self.state_details.pause_reschedule),
        )


class Policy(Shape):
    retry_type: str | None = None


class FlowRun(Shape):
    id: str
    name: str = ""
    flow_id: str
    deployment_id: str | None = None
    deployment_version: str | None = None
    expected_start_time: Annotated[datetime, AfterValidator(_aware)] | None = None
    next_scheduled_start_time: Annotated[datetime, AfterValidator(_aware)] | None = None
    work_queue_id: str | None = None
    job_variables: dict[str, Any] | None = None
    tags: list[str] = Field(default_factory=list)
    state: State | None = None
    empirical_policy: Policy | None = None
    state_name: str | None = None
    run_count: int | None = None

    def seen(self) -> SeenRun | None:
        """The run with its state; None for one that has none."""
        if self.state is None:
            return None
        waits = bool(self.empirical_policy and self.empirical_policy.retry_type == "in_process")
        return SeenRun(
            id=RunId(self.id),
            name=self.name,
            state=self.state.ours(),
            deployment_id=DeploymentId(self.deployment_id) if self.deployment_id else None,
            waits_in_process=waits and self.state.type == "SCHEDULED",
            job_variables=self.job_variables or {},
        )


class ScheduledRun(Shape):
    """One item of what `get_scheduled_flow_runs` answers."""

    class Run(FlowRun):
        @model_validator(mode="after")
        def _has_a_time(self) -> Self:
            if self.due_at is None:
                raise ValueError("a scheduled run without a time")
            return self

        @property
        def due_at(self) -> datetime | None:
            return self.next_scheduled_start_time or self.expected_start_time

    flow_run: Run
    told: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _kept(cls, item: Any) -> Any:
        return {**item, "told": item.get("flow_run")} if isinstance(item, dict) else item

    def due(self) -> DueRun:
        run = self.flow_run
        assert run.due_at is not None  # the validator saw to it
        return DueRun(
            id=RunId(run.id),
            name=run.name,
            flow_id=FlowId(run.flow_id),
            deployment_id=DeploymentId(run.deployment_id) if run.deployment_id else None,
            due_at=run.due_at,
            job_variables=run.job_variables or {},
            tags=tuple(run.tags),
            deployment_version=run.deployment_version,
            work_queue_id=run.work_queue_id,
            told=self.told,
            scheduled_for=run.expected_start_time,
            state_name=run.state_name or "Scheduled",
            run_count=run.run_count or 0,
        )


class SetStateAnswer(Shape):
    class Why(Shape):
        reason: str | None = None
        delay_seconds: float | None = None

    status: str
    state: State | None = None
    details: Why = Why()
    told: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _kept(cls, answer: Any) -> Any:
        return {**answer, "told": answer.get("state")} if isinstance(answer, dict) else answer


class PoolAnswer(Shape):
    id: str
    name: str
    type: str
    base_job_template: dict[str, Any] = Field(default_factory=dict)
    is_paused: bool = False


class DeploymentAnswer(Shape):
    class Version(Shape):
        type: str
        version: str

    id: str
    name: str
    flow_id: str
    version: str | None = None
    entrypoint: str | None = None
    pull_steps: list[dict[str, Any]] | None = None
    job_variables: dict[str, Any] | None = None
    tags: list[str] = Field(default_factory=list)
    branch: str | None = None
    base: str | None = None
    root: str | None = None
    version_id: str | None = None
    version_info: Version | None = None

    def labels(self) -> dict[str, str]:
        """As `DeploymentResponse.as_related_resource` of Prefect's client has them."""
        labels = {
            "branch": self.branch,
            "base": self.base and f"prefect.deployment.{self.base}",
            "root": self.root and f"prefect.deployment.{self.root}",
        }
        if self.version_id and self.version_info:
            info = self.version_info
            labels |= {"version-id": self.version_id, "version-type": info.type, "version": info.version}
        return {f"prefect.deployment.{name}": value for name, value in labels.items() if value}


class FlowAnswer(Shape):
    id: str
    name: str
    tags: list[str] = Field(default_factory=list)


class QueueAnswer(Shape):
    id: str
    name: str


class BlockAnswer(Shape):
    data: dict[str, Any] = Field(default_factory=dict, repr=False)


class VariableAnswer(Shape):
    value: Any = Field(default=None, repr=False)


class StorageAnswer(Shape):
    default_result_storage_block_id: str | None = None


def one(shape: type[M], answer: Any, what: str) -> M:
    """The answer in this shape. Raises Permanent, which says what is wrong with it."""
    try:
        return shape.model_validate(answer)
    except ValidationError as exc:
        raise Permanent(f"the API's answer about {what} is not of the shape that Prefect's has: {_wrong(exc)}") from exc


def many(shape: type[M], answer: Any, what: str) -> list[M]:
    """The items of a list which have this shape. The others are left aside, and said: one must not stop the rest."""
    if not isinstance(answer, list):
        raise Permanent(f"the API's answer about {what} is not a list: is PREFECT_API_URL the API's address?")
    kept = []
    for item in answer:
        try:
            kept.append(shape.model_validate(item))
        except ValidationError as exc:
            log.get().error("answer_item_left_aside", about=what, wrong=_wrong(exc), id=_id_of(item))
    return kept


def _id_of(item: Any) -> str | None:
    inner = item.get("flow_run", item) if isinstance(item, dict) else None
    return str(inner.get("id"))[:64] if isinstance(inner, dict) else None


def _wrong(exc: ValidationError) -> str:
    first = exc.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'value'}: {first['msg']}"
