"""What a backend says about a cluster that exists."""

from dataclasses import dataclass, field
from typing import Literal

from flowgroup.model.ids import ClusterName
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

    def told(self) -> dict[str, float]:
        """By name."""
        return {"clusters": self.clusters, "pods": self.pods, "cpu": self.cpu, "gpu": self.gpu}
