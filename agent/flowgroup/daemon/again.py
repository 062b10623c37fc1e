"""
Whether a run whose infrastructure failed is tried again, and when.

In: the run as the API has it, and what failed. Out: the run given back for another try, or its end with all causes. How often
it was tried is in its own history (Scheduled under a name of ours), where the next daemon finds it; the flow's own retries
are counted by Prefect, as starts of user code, and are not touched. What the agent gives back because it stops is no try.
"""

from dataclasses import dataclass
from typing import Protocol

from flowgroup import log
from flowgroup.daemon import plan as plan_room
from flowgroup.daemon.cluster import ClusterFailed
from flowgroup.daemon.plan import variables_of
from flowgroup.errors import FlowgroupError, NoRoom, Permanent, Transient
from flowgroup.metrics import INFRASTRUCTURE_RETRIES
from flowgroup.model.ids import RunId
from flowgroup.model.runs import Crashed, GivenBack, Lost, Outcome
from flowgroup.model.states import AWAITING_INFRASTRUCTURE, SeenRun
from flowgroup.model.variables import JobVariables

_NO_ROOM_AGAIN_S = 30.0
_FIRST_S = 10.0
_LONGEST_S = 300.0
_CAUSE_CHARS = 1500


class Api(plan_room.Api, Protocol):
    async def lost_tries(self, run_id: RunId) -> list[str]: ...
    async def write_log(self, run_id: RunId, level: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Again:
    """`retries`: how often a run is tried again where its deployment does not say."""

    api: Api
    retries: int

    async def judged(self, seen: SeenRun, lost: Lost) -> GivenBack | Crashed:
        """Raises Transient while the API does not say what has to be known."""
        has_begun = seen.state.type != "PENDING"
        if has_begun and (seen.state.type != "RUNNING" or not lost.was_taken):
            return Crashed(lost.reason)
        wanted = await self._wanted(seen)
        if has_begun and not wanted.retry_evicted:
            return Crashed(
                f"{lost.reason} The flow's code had begun: let retry_evicted be true if it may then begin again."
            )
        retries = self.retries if wanted.infrastructure_retries is None else wanted.infrastructure_retries
        return verdict(await self.api.lost_tries(seen.id), lost.reason, retries, has_begun=has_begun)

    async def note(self, run_id: RunId, back: GivenBack) -> None:
        """Say it in the run's own log too. Never raises: its state has it."""
        INFRASTRUCTURE_RETRIES.inc()
        try:
            await self.api.write_log(run_id, "warning", back.reason)
        except FlowgroupError as exc:
            log.get().warning("retry_not_logged", run=run_id, reason=str(exc))

    async def _wanted(self, seen: SeenRun) -> JobVariables:
        try:
            return await variables_of(self.api, seen)
        except Permanent as exc:  # a deployment that was changed or deleted since
            log.get().warning("retries_not_known", run=seen.id, reason=str(exc), then="as the settings say")
            return JobVariables()


def failure(exc: FlowgroupError) -> Outcome:
    """What a run's trouble after its claim means for it. A quota is waited for, however long it takes."""
    if isinstance(exc, NoRoom):
        return GivenBack(str(exc), _NO_ROOM_AGAIN_S)
    if isinstance(exc, Transient) or (isinstance(exc, ClusterFailed) and exc.may_pass):
        return Lost(str(exc))
    return Crashed(str(exc))


def verdict(before: list[str], reason: str, retries: int, *, has_begun: bool) -> GivenBack | Crashed:
    """What becomes of a run after this failure. `before`: what was said at those before it."""
    number, of = len(before) + 1, retries + 1
    if number >= of:
        return Crashed(_all_causes([*before, f"Attempt {number} of {of} failed: {reason}"]) if before else reason)
    after_s = min(_LONGEST_S, _FIRST_S * 2.0 ** min(number - 1, 16))
    said = f"Attempt {number} of {of} failed, tried again in {after_s:.0f} s: {reason}"
    return GivenBack(said, after_s, AWAITING_INFRASTRUCTURE, from_running=has_begun)


def _all_causes(said: list[str]) -> str:
    causes = "\n".join(text if len(text) <= _CAUSE_CHARS else f"{text[:_CAUSE_CHARS]}…" for text in said)
    return f"The infrastructure failed {len(said)} times, and the run is not tried again (infrastructure_retries).\n{causes}"
