"""What a backend says about a cluster that exists, what the daemon keeps it for, and what an operator asked of it."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowgroup.model.ids import ClusterName, RunId
from flowgroup.model.spec import ClusterSpec

Fate = Literal["taken", "may-pass", "certain"]
"""
Why a cluster is dead, as to another try: its place was taken from it (evicted, preempted, a node lost), another try may
succeed, or it would end the same way.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A cluster of ours, dead or alive. Whoever says hello with `secret` is its driver."""

    name: ClusterName
    spec: ClusterSpec
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Takes:
    """What a cluster takes at most, with all workers that it may grow to: pods (or processes), CPUs and GPUs asked for."""

    clusters: int = 1
    pods: int = 0
    cpu: float = 0.0
    gpu: float = 0.0

    @classmethod
    def as_processes(cls, spec: ClusterSpec) -> "Takes":
        """On one machine: processes, and of CPUs the workers' threads and one for each other process."""
        workers, others = sum(group.most for group in spec.groups), 2 if spec.has_workers else 1
        return cls(pods=others + workers, cpu=others + workers * spec.worker_threads)

    def told(self) -> dict[str, float]:
        """By name."""
        return {"clusters": self.clusters, "pods": self.pods, "cpu": self.cpu, "gpu": self.gpu}


@dataclass(frozen=True, slots=True)
class Kept:
    """
    A cluster that exists, and what it lives for: runs that have a lease on it, runs that are expected, its idle time.

    `idle_s` is 0 while it is needed.
    """

    spec: ClusterSpec
    leases: tuple[RunId, ...]
    expected: tuple[RunId, ...]
    is_draining: bool
    idle_s: float
    idle_timeout_s: float

    @property
    def why(self) -> str:
        """Why it lives, in words."""
        if self.is_draining:
            return f"reset: {_count(self.leases)} to end first" if self.leases else "reset: about to go"
        parts = [_count(self.leases)] if self.leases else []
        parts += [f"{_count(self.expected)} expected"] if self.expected else []
        return ", ".join(parts) or f"idle for {self.idle_s:.0f} of {self.idle_timeout_s:.0f} s"


def _count(runs: tuple[RunId, ...]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


class Ask(BaseModel):
    """
    What an operator asked of one cluster. It is a level, written on the cluster itself: `reset` stands until the cluster is
    gone, `scale` (workers by group) until there are so many or `until` (seconds since 1970) has passed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    reset: bool = False
    scale: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    until: float = 0.0

    @classmethod
    def read(cls, text: object) -> "Ask":
        """What cannot be read asks for nothing."""
        try:
            return cls.model_validate_json(text) if isinstance(text, str) else cls()
        except ValidationError:
            return cls()
