"""
Due runs that are not started although there are slots: why, for whom it may concern.

In: what the poll was offered. Out: a reason for each run that has one, as a gauge, in the daemon's log when it changes, and
once in the run's own log. Their states are left alone: Prefect takes Scheduled over any state, so that a reason written
there could take a run away from another agent that has just claimed it.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.caps import setting
from flowgroup.errors import FlowgroupError
from flowgroup.metrics import RUNS_HELD
from flowgroup.model.ids import RunId
from flowgroup.model.runs import DueRun

_ANEW_S = 60.0
_REMEMBERED = 10_000
DEPLOYMENT_LIMIT = "deployment.runs"


class Api(Protocol):
    async def write_logs(self, lines: Mapping[RunId, str]) -> None: ...


class Claims(Protocol):
    def is_held(self, due: DueRun) -> bool: ...


class Caps(Protocol):
    def still_waits(self, run_id: RunId) -> str | None: ...
    def keep_waiting(self, offered: set[RunId]) -> None: ...


@dataclass(slots=True)
class Held:
    api: Api
    claims: Claims
    caps: Caps
    _anew_at: float = 0.0
    _said: dict[RunId, str] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def why(self, due: DueRun) -> str | None:
        """Why the run would not be started if it were tried: whose limit of what (`group.cpu`). None: it may be tried."""
        return DEPLOYMENT_LIMIT if self.claims.is_held(due) else self.caps.still_waits(due.id)

    async def note(self, offered: set[RunId], reasons: Mapping[RunId, str]) -> None:
        """Say what waits now. Never raises."""
        now = asyncio.get_running_loop().time()
        is_anew = now - self._anew_at >= _ANEW_S  # a deployment may ask for less by now
        self._anew_at = now if is_anew else self._anew_at
        self.caps.keep_waiting(set() if is_anew else offered)
        if len(self._said) > _REMEMBERED:
            self._said = {run: reason for run, reason in self._said.items() if run in offered}
        self._count(Counter(reasons.values()))
        new = {run: reason for run, reason in reasons.items() if self._said.get(run) != reason}
        self._said.update(new)
        lines = {run: _words(reason) for run, reason in new.items() if reason != DEPLOYMENT_LIMIT}  # Prefect says that
        try:
            if lines:
                await self.api.write_logs(lines)
        except FlowgroupError as exc:
            log.get().warning("runs_held_untold", runs=len(lines), reason=str(exc))

    def _count(self, counts: Counter[str]) -> None:
        for reason in self._counts.keys() | counts.keys():
            RUNS_HELD.labels(reason).set(counts[reason])
        if counts.keys() != self._counts.keys():
            log.get().info("runs_held", **{reason.replace(".", "_"): count for reason, count in counts.items()})
        self._counts = counts


def _words(reason: str) -> str:
    whose, _, kind = reason.partition(".")
    owner = "its flow" if whose == "group" else "the pool"
    return f"The run waits: {owner} has as many {kind} as the agent's settings allow ({setting(whose, kind)})."
