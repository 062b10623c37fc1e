"""What a backend says about a cluster that exists."""

from dataclasses import dataclass, field

from flowgroup.model.ids import ClusterName
from flowgroup.model.spec import ClusterSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A cluster of ours, dead or alive. Whoever says hello with `secret` is its driver."""

    name: ClusterName
    spec: ClusterSpec
    secret: str = field(repr=False)
