"""
What the daemon and a driver say to each other: one JSON object a line.

Daemon to driver: Order, Cancel, Suspend, Forget, Losses, Shutdown. Driver to daemon: Hello (first), then Status whenever
something changed and every few seconds. Status is a level: it names every attempt that the driver has and was not told to
forget, so a lost line heals with the next.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flowgroup.model.bundle import BundleRef
from flowgroup.model.ids import AttemptId, ClusterName, RunId, Token

MAX_LINE_BYTES = 8 * 1024 * 1024


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BundleCode(_Frame):
    """The code is a bundle. `fetch` is a presigned https address, or a path on this machine."""

    kind: Literal["bundle"] = "bundle"
    fetch: str
    ref: BundleRef
    public_keys: tuple[str, ...] = ()
    deployment: str = Field(description="`<flow name>/<deployment name>`, which the statement must name")
    version: str | None = Field(default=None, description="the deployment's version, which the statement must name")


class PrefectCode(_Frame):
    """The code is what Prefect's deployment says: pull steps, path and entrypoint."""

    kind: Literal["prefect"] = "prefect"


class Remark(_Frame):
    """A line of the daemon's own for a run's log."""

    text: str
    is_warning: bool = False


class Order(_Frame):
    """Run this attempt. Sending it twice is harmless: the driver knows attempts by name."""

    type: Literal["order"] = "order"
    run_id: RunId
    run_name: str
    flow_name: str
    attempt: AttemptId
    token: Token = Field(repr=False)
    start_at: float | None = Field(
        default=None, description="unix time before which the child must not propose Running"
    )
    code: Annotated[BundleCode | PrefectCode, Field(discriminator="kind")]
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    secret_env: tuple[str, ...] = Field(
        default=(), description="names of variables, in `env` or the pod's own, whose values are secrets"
    )
    dask: bool = False
    results: str | None = Field(default=None, description="address of the folder in the object store for results")
    memory_limit_bytes: int | None = None
    remarks: tuple[Remark, ...] = ()
    flow_run: dict[str, Any] | None = Field(
        default=None, repr=False, description="the run as Prefect's API has it after the claim; None: ask for it"
    )
    related: list[dict[str, Any]] | None = Field(
        default=None,
        repr=False,
        description="what the run's events are related to, as Prefect's engine would look it up; None: look it up",
    )
    default_result_storage: str | None = Field(
        default=None, description="id of the block that the server keeps results in by default, if it names one"
    )
    is_default_result_storage_known: bool = Field(default=False, description="False: ask for it")
    seal: str = Field(
        default="", repr=False, description="what the driver shows to the next daemon; it says nothing here"
    )


class Cancel(_Frame):
    """End this attempt: cooperatively, then by force after `grace_s` seconds."""

    type: Literal["cancel"] = "cancel"
    attempt: AttemptId
    grace_s: float = 8.0


class Suspend(_Frame):
    """
    Prefect shows this attempt's run as Suspended: it is to stop at its next boundary and give its process up.

    Saying it twice is harmless, and so is saying it of a run that suspended itself and is on its way out.
    """

    type: Literal["suspend"] = "suspend"
    attempt: AttemptId


class Forget(_Frame):
    """The daemon knows how these attempts ended; the driver may drop them."""

    type: Literal["forget"] = "forget"
    attempts: tuple[AttemptId, ...]


class Losses(_Frame):
    """
    Why the scheduler (`scheduler`) and workers ended that did lately, by the names that Dask knows them by: the answer to
    `Status.asks`, of which so many had been asked.
    """

    type: Literal["losses"] = "losses"
    why: dict[str, str]
    asks: int


class Shutdown(_Frame):
    """Nothing is left to do for this cluster: end."""

    type: Literal["shutdown"] = "shutdown"


class Exit(_Frame):
    """How a child ended. `code` is its exit status, or `signal` its number; `tail` the last lines of its output."""

    code: int | None = None
    signal: int | None = None
    tail: str = ""
    cause: str | None = Field(
        default=None, description="what the driver knows beyond the status: memory limit, refused bundle"
    )
    reached_user_code: bool = False
    reported: bool = Field(default=False, description="the engine said that the API has the run's end")


class Attempt(_Frame):
    """One attempt as the driver sees it now."""

    run_id: RunId
    attempt: AttemptId
    phase: Literal["starting", "running", "ended"]
    exit: Exit | None = None


class Hello(_Frame):
    """The driver's first line. `secret` proves which cluster it belongs to."""

    type: Literal["hello"] = "hello"
    cluster: ClusterName
    secret: str = Field(repr=False)
    python: str
    prefect: str
    pid: int


class GroupLevel(_Frame):
    """
    One group of workers as the cluster's Dask scheduler sees it: `wanted` workers are to be there, `there` are at work.

    `retired` are names of workers that take no tasks any more and hold nothing that only they have: their processes, or
    pods, may go.
    """

    wanted: int = Field(ge=0)
    there: int = Field(default=0, ge=0)
    retired: tuple[str, ...] = ()
    cores: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="that its workers keep busy")
    memory_bytes: int = Field(default=0, ge=0, description="what they hold")


class Status(_Frame):
    """Everything that the driver knows. `ready`: the zygote forks and, if there are workers, the scheduler answers."""

    type: Literal["status"] = "status"
    ready: bool
    cpu_s: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="processor time of the driver and its runs since it started"
    )
    memory_bytes: int = Field(default=0, ge=0, description="what they hold now")
    trouble: str | None = Field(default=None, description="why it will never be ready, if it will not")
    start_log: tuple[str, ...] = Field(default=(), description="with trouble: what the start script said")
    attempts: tuple[Attempt, ...] = ()
    seals: tuple[str, ...] = Field(
        default=(), repr=False, description="of the attempts, in the first status of a line: the daemon may be another"
    )
    asks: int = Field(default=0, description="grows with each question why a worker or the scheduler ended")
    groups: dict[str, GroupLevel] = Field(
        default_factory=dict, description="by the group's name; empty while the scheduler says nothing"
    )


ToDriver = Annotated[Order | Cancel | Suspend | Forget | Losses | Shutdown, Field(discriminator="type")]
ToDaemon = Annotated[Hello | Status, Field(discriminator="type")]
_TO_DRIVER: TypeAdapter[Any] = TypeAdapter(ToDriver)
_TO_DAEMON: TypeAdapter[Any] = TypeAdapter(ToDaemon)


def encode(frame: _Frame) -> bytes:
    """One line, newline included."""
    return frame.model_dump_json().encode() + b"\n"


def read_order(line: bytes) -> Order | Cancel | Suspend | Forget | Losses | Shutdown:
    """Parse a line from the daemon. Raises pydantic's ValidationError (a ValueError)."""
    frame: Order | Cancel | Suspend | Forget | Losses | Shutdown = _TO_DRIVER.validate_json(line)
    return frame


def read_report(line: bytes) -> Hello | Status:
    """Parse a line from a driver. Raises pydantic's ValidationError (a ValueError)."""
    frame: Hello | Status = _TO_DAEMON.validate_json(line)
    return frame
