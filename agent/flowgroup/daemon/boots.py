"""How long clusters took lately, from making one to ready: what is coming is made so long before."""

from collections import deque
from dataclasses import dataclass, field

from flowgroup.model.spec import ClusterSpec

_REMEMBERED = 5


@dataclass(slots=True)
class Boots:
    _lately: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def note(self, spec: ClusterSpec, took_s: float) -> None:
        self._lately.append((_workers(spec), took_s))

    def slowest_s(self, spec: ClusterSpec) -> float | None:
        """Of the last few with as many workers at least; None if there was none: small ones say nothing of a large one."""
        return max((took_s for workers, took_s in self._lately if workers >= _workers(spec)), default=None)


def _workers(spec: ClusterSpec) -> int:
    """How many worker processes a cluster has at first."""
    return sum(group.first for group in spec.groups)
