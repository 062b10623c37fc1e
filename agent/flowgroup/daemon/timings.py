"""How long the latest runs took, stage by stage: what the page draws. In memory, and of this daemon's own runs only."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flowgroup.model.ids import ClusterName, FlowId, RunId
from flowgroup.model.runs import ClaimedRun

Json = dict[str, Any]
STAGES = ("waited", "placed", "started", "ran")
"""From its due time to its claim; until its driver had the order; until Running; until its end was told."""
_MOST = 200


@dataclass(slots=True)
class _Timing:
    name: str
    flow_id: FlowId
    cluster: ClusterName | None
    due_at: datetime
    waited_s: float
    at: float
    """When the last stage ended, by our clock."""
    stages: dict[str, float] = field(default_factory=dict)
    outcome: str | None = None


class Timings:
    """`on_end` gets each run that has ended as `told` tells it."""

    def __init__(
        self,
        *,
        on_end: Callable[[Json], None] = lambda _: None,
        most: int = _MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_end = on_end
        self._most = most
        self._clock = clock
        self._runs: OrderedDict[RunId, _Timing] = OrderedDict()

    def claimed(self, run: ClaimedRun, cluster: ClusterName | None) -> None:
        waited_s = max(0.0, (datetime.now(UTC) - run.due.due_at).total_seconds())
        due = run.due
        self._runs[run.id] = _Timing(due.name, due.flow_id, cluster, due.due_at, waited_s, self._clock())
        self._runs.move_to_end(run.id)
        while len(self._runs) > self._most:
            self._runs.popitem(last=False)

    def reached(self, run_id: RunId, stage: str) -> None:
        """The stage has ended. Of a run that was claimed by another daemon, or long ago, nothing is known."""
        if (timing := self._runs.get(run_id)) is not None:
            now = self._clock()
            timing.stages[stage], timing.at = now - timing.at, now

    def ended(self, run_id: RunId, outcome: str) -> None:
        self.reached(run_id, "ran")
        if (timing := self._runs.get(run_id)) is not None:
            timing.outcome = outcome
            self._on_end(_told(run_id, timing))

    def told(self) -> list[Json]:
        """
        The newest first: `{"id", "name", "flow_id", "cluster", "due_at", "outcome", "stages"}`; `stages` has the seconds of
        those that have ended, `outcome` is None while the run is under way.
        """
        return [_told(run_id, timing) for run_id, timing in reversed(self._runs.items())]


def _told(run_id: RunId, timing: _Timing) -> Json:
    ended = {stage: round(seconds, 3) for stage, seconds in timing.stages.items()}
    return {
        "id": run_id,
        "name": timing.name,
        "flow_id": timing.flow_id,
        "cluster": timing.cluster,
        "due_at": timing.due_at.isoformat(),
        "outcome": timing.outcome,
        "stages": {"waited": round(timing.waited_s, 3), **ended},
    }
