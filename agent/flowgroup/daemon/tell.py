"""
Tell the API how a run ended, where the run could not say so itself.

In: a run's id, the attempt and its outcome. It never speaks over a terminal state, nor about a run that has left the
attempt behind (rescheduled, suspended, claimed again). It tries until the API answers: an outage is a pause.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.again import Again
from flowgroup.daemon.points import reached
from flowgroup.edge.prefect import Standing
from flowgroup.edge.wire import Unauthorized
from flowgroup.errors import Permanent, Transient
from flowgroup.metrics import RUNS_UNDONE
from flowgroup.model.causes import code_of
from flowgroup.model.ids import AttemptId, RunId
from flowgroup.model.runs import Cancelled, Crashed, GivenBack, Lost, Outcome, Reported, Sayable
from flowgroup.model.states import Saying, SeenRun, to_say
from flowgroup.retry import pause_s

_ROUNDS = 5


class Api(Protocol):
    async def read(self, run_id: RunId) -> SeenRun | None: ...
    async def last_claim(self, run_id: RunId) -> AttemptId | None: ...
    async def say(self, run_id: RunId, saying: Saying) -> Standing: ...
    async def open_children(self, run_id: RunId) -> list[SeenRun]: ...


@dataclass(frozen=True, slots=True)
class Teller:
    """`again` decides what becomes of a run whose infrastructure failed."""

    api: Api
    again: Again

    async def tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> Outcome:
        """
        Say it until the API has it, and give what the outcome came to. A call that can never succeed is logged; the reconcile
        looks again.
        """
        if isinstance(outcome, Reported):
            return outcome
        if isinstance(outcome, Crashed | GivenBack | Lost):
            RUNS_UNDONE.labels(code_of(outcome.reason) or "other").inc()
        tries = 0
        while True:
            try:
                return await self._tell(run_id, attempt, outcome)
            except (Transient, Unauthorized) as exc:
                tries += 1
                log.get().warning("run_end_not_told_yet", run=run_id, attempt=attempt, reason=str(exc))
                await asyncio.sleep(pause_s(tries, exc.retry_after_s if isinstance(exc, Transient) else None))
            except Permanent as exc:
                log.get().error("run_end_not_told", run=run_id, attempt=attempt, reason=str(exc))
                return outcome

    async def _tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> Outcome:
        if await self.api.last_claim(run_id) != attempt:
            log.get().info("run_claimed_again_meanwhile", run=run_id, attempt=attempt)
            return outcome
        said = await self._say(run_id, outcome)
        if isinstance(said, GivenBack) and said.from_running:
            await self._end_children(run_id, Crashed(said.reason))
        if isinstance(said, Crashed | Cancelled):
            await self._end_children(run_id, said)
        return said or outcome

    async def _say(self, run_id: RunId, outcome: Outcome) -> Sayable | None:
        """
        Propose, and look again when the run has moved meanwhile: to Cancelling, for example.

        Gives what was said, or would have been if the API had not known better.
        """
        for _ in range(_ROUNDS):
            seen = await self.api.read(run_id)
            if seen is None:
                return None
            judged = await self.again.judged(seen, outcome) if isinstance(outcome, Lost) else outcome
            saying = to_say(seen, judged)
            if saying is None:
                return judged
            reached("saying")
            standing = await self.api.say(run_id, saying)
            reached("said")
            if standing.accepted:
                log.get().info("run_told", run=run_id, state=saying.type, name=saying.name, reason=saying.message)
                if isinstance(judged, GivenBack) and judged.name:
                    await self.again.note(run_id, judged)
                return judged
        raise Permanent(f"the API refused {_ROUNDS} times to take the end of run {run_id}")

    async def _end_children(self, run_id: RunId, outcome: Crashed | Cancelled) -> None:
        """Sub-flow runs that lived in the run's process have ended with it."""
        for child in await self.api.open_children(run_id):
            await self._end_children(child.id, outcome)
            reason = f"Its process was that of the run {run_id}, which ended: {outcome.reason}"
            await self._say(child.id, type(outcome)(reason))
