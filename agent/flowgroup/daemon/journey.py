"""
One run's journey: the whole daemon in one coroutine.

    due -> held -> planned -> claimed -> placed -> sent -> watched -> told

Before the claim a trouble puts the run down: it is still due, and the poll finds it again. After the claim there is no
next poll: what can be tried again is tried here until the deadline, and then the run is given back.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from flowgroup import log
from flowgroup.daemon import plan as plan_room
from flowgroup.daemon import waiting as waiting_room
from flowgroup.daemon.again import failure
from flowgroup.daemon.cancel import Asked, Cancels
from flowgroup.daemon.clusters import ClusterFailed
from flowgroup.daemon.late import too_late
from flowgroup.daemon.placement import Policy
from flowgroup.daemon.plan import planned
from flowgroup.daemon.renew import renewed
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.unless import Interrupted, unless
from flowgroup.daemon.waiting import said_meanwhile
from flowgroup.errors import FlowgroupError, NoRoom, Permanent, Refused, Transient
from flowgroup.metrics import CLAIMS, RUNS_FINISHED, SCHEDULE_TO_CLAIM, STAGE_SECONDS
from flowgroup.model.ids import AttemptId, ClusterName, RunId, new_attempt
from flowgroup.model.runs import (
    Cancelled,
    ClaimedRun,
    Crashed,
    DueRun,
    GivenBack,
    NotClaimed,
    Outcome,
    Placement,
    SentRun,
    Skipped,
)
from flowgroup.model.spec import ClusterSpec
from flowgroup.retry import until

_PUT_DOWN_S = 2.0
_PUT_DOWN_LONG_S = 30.0
_QUOTA = "exceeded quota"  # Kubernetes' words, of pods that others make for us
_GOODBYE_TIMEOUT_S = 3.0


class Api(plan_room.Api, waiting_room.Api, Protocol):
    async def renew_lease(self, lease: str) -> None: ...
    async def write_lines(self, run_id: RunId, logger: str, lines: Sequence[str]) -> None: ...


class Claims(Protocol):
    async def claim(self, due: DueRun, attempt: AttemptId) -> ClaimedRun | NotClaimed: ...
    def ended(self, due: DueRun) -> None: ...


class Caps(Protocol):
    def check(self, spec: ClusterSpec) -> None: ...
    def room(self, spec: ClusterSpec | None, run_id: RunId) -> AbstractContextManager[bool]: ...
    def resumed(self, name: ClusterName, run_id: RunId) -> AbstractContextManager[None]: ...


class Clusters(waiting_room.Clusters, Protocol):
    def turn(self, spec: ClusterSpec | None, run_id: RunId) -> AbstractContextManager[bool]: ...
    def lease(
        self, name: ClusterName, run_id: RunId, idle_timeout_s: float | None = None
    ) -> AbstractContextManager[None]: ...


class Sender(Protocol):
    async def sent(self, run: ClaimedRun, plan: Placement) -> SentRun: ...


class Watch(Protocol):
    async def outcome(self, sent: SentRun, *, asked: Asked, on_running: Callable[[], None]) -> Outcome: ...


class Attempts(Protocol):
    async def close(self, attempt: AttemptId) -> None: ...


class Drivers(Protocol):
    def was_given(self, cluster: ClusterName, attempt: AttemptId) -> bool: ...
    def forget(self, cluster: ClusterName, attempt: AttemptId) -> None: ...


class Teller(Protocol):
    async def tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Journeys:
    """Carries runs. `owner` marks our attempts, so that another daemon's are never taken for ours."""

    slots: Slots
    caps: Caps
    claims: Claims
    api: Api
    clusters: Clusters
    sender: Sender
    watch: Watch
    attempts: Attempts
    drivers: Drivers
    teller: Teller
    cancels: Cancels
    policy: Policy
    owner: str
    cluster_timeout_s: float

    async def carry(self, due: DueRun) -> float:
        """Carry a due run to its end. Returns for how many seconds it need not be looked at again."""
        with self.slots.hold(due.id) as held:
            if not held:
                return 0.0
            try:
                plan = await self._plan(due)
                turn, room = self.clusters.turn(_spec(plan), due.id), self.caps.room(_spec(plan), due.id)
                with turn as is_ours, room as has_room:
                    return await self._carry(due, plan) if is_ours and has_room else 0.0
            except FlowgroupError as exc:  # nobody has it yet: it is still due
                log.get().warning("run_put_down", run=due.id, reason=str(exc))
                return _PUT_DOWN_LONG_S if isinstance(exc, Permanent) else _PUT_DOWN_S

    async def resume(self, sent: SentRun) -> None:
        """Carry on with a run that a former daemon had sent."""
        with self.slots.hold(sent.id, even_if_full=True) as held:
            if not held:
                return
            room = self.caps.resumed(sent.cluster, sent.id)
            with room, self.clusters.lease(sent.cluster, sent.id), self.cancels.listening(sent.id) as asked:
                log.get().info("run_resumed", run=sent.id, attempt=sent.attempt, cluster=sent.cluster)
                async with renewed(self.api, sent.lease) as stop_renewing:
                    outcome = await self.watch.outcome(sent, asked=asked, on_running=stop_renewing)
                await self._tell(sent.id, sent.attempt, outcome)
                self.drivers.forget(sent.cluster, sent.attempt)

    async def _plan(self, due: DueRun) -> Placement | Crashed | Skipped:
        """Where the run goes. A refusal is said in the run's state, so it is a plan too."""
        try:
            plan = await planned(self.api, due, self.policy)
            self.caps.check(plan.spec)
            return too_late(due, plan.skip_if_late_s, datetime.now(UTC)) or plan
        except Refused as exc:
            return Crashed(str(exc))

    async def _carry(self, due: DueRun, plan: Placement | Crashed | Skipped) -> float:
        attempt = new_attempt(self.owner, uuid.uuid4())
        with STAGE_SECONDS.labels("claimed").time():
            run = await self.claims.claim(due, attempt)
        if isinstance(run, NotClaimed):
            CLAIMS.labels("refused").inc()
            log.get().info("run_not_claimed", run=due.id, reason=run.reason, again_in_s=run.delay_s)
            return run.delay_s
        _note_claimed(run)
        if isinstance(plan, Crashed | Skipped):
            await self._tell(run.id, attempt, plan)
        else:
            with self.clusters.lease(plan.spec.name, run.id, plan.idle_timeout_s):
                with self.cancels.listening(run.id) as asked:
                    await self._tell(run.id, attempt, await self._outcome(run, plan, asked))
                self.drivers.forget(plan.spec.name, attempt)
        self.claims.ended(due)
        return 0.0

    async def _outcome(self, run: ClaimedRun, plan: Placement, asked: Asked) -> Outcome:
        began = asyncio.get_running_loop().time()
        try:
            async with renewed(self.api, run.lease) as stop_renewing:
                sent = await self._sent(run, plan, asked)

                def on_running() -> None:
                    stop_renewing()
                    STAGE_SECONDS.labels("running").observe(asyncio.get_running_loop().time() - began)
                    log.get().info("run_running", run=run.id, attempt=run.attempt, cluster=sent.cluster)

                return await self.watch.outcome(sent, asked=asked, on_running=on_running)
        except Interrupted:
            return Cancelled("Cancelled before it started.")
        except FlowgroupError as exc:
            if isinstance(exc, ClusterFailed) and exc.start_log:
                await self._log_start_script(run.id, exc.start_log)
            return failure(exc)
        except Exception as exc:  # noqa: BLE001 (the one place) one run's trouble must not become another's
            log.get().exception("run_not_carried", run=run.id, attempt=run.attempt)
            return Crashed(f"flowgroup failed on this run ({type(exc).__name__}: {exc}). Its own log says more.")

    async def _sent(self, run: ClaimedRun, plan: Placement, asked: Asked) -> SentRun:
        """Try until the deadline. A daemon that stops meanwhile gives the run back, for no driver has it."""
        trouble = Transient(f"cluster {plan.spec.name} was not ready; its logs say why")

        async def once() -> SentRun:
            nonlocal trouble
            try:
                return await self.sender.sent(run, plan)
            except Transient as exc:
                if str(exc) != str(trouble):
                    log.get().warning("run_not_sent_yet", run=run.id, attempt=run.attempt, reason=str(exc))
                trouble = exc
                raise

        try:
            async with (
                said_meanwhile(self.api, self.clusters, run, plan.spec.name, lambda: trouble),
                asyncio.timeout(self.cluster_timeout_s),
            ):
                sending = until(once, timeout_s=self.cluster_timeout_s)
                return await unless(asked.cancel, sending, name=f"send {run.id}")
        except TimeoutError as exc:
            reason = await self.clusters.why_waiting(plan.spec.name) or str(trouble)
            kind = NoRoom if isinstance(trouble, NoRoom) or _QUOTA in reason else Transient
            raise kind(
                f"The run could not be started within {self.cluster_timeout_s:.0f} s "
                f"(FLOWGROUP_CLUSTER_TIMEOUT_S): {reason.rstrip('.')}."
            ) from exc
        except asyncio.CancelledError:
            if not self.drivers.was_given(plan.spec.name, run.attempt):
                await self._give_back(run)
            raise

    async def _log_start_script(self, run_id: RunId, start_log: Sequence[str]) -> None:
        """What the start script said is in the logs of all runs that waited for it. The state's message has the end."""
        try:
            await self.api.write_lines(run_id, "flowgroup.start_script", start_log)
        except FlowgroupError as exc:
            log.get().warning("start_script_not_logged", run=run_id, reason=str(exc))

    async def _give_back(self, run: ClaimedRun) -> None:
        """Without an answer in time the run stays Pending, and the next daemon finds it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                await self._tell(run.id, run.attempt, GivenBack("The agent was stopped before the run started."))

    async def _tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> None:
        # First nothing may speak for the attempt any more: a child that is left must not follow what we say now.
        await self.attempts.close(attempt)
        with STAGE_SECONDS.labels("told").time():
            await self.teller.tell(run_id, attempt, outcome)
        name = type(outcome).__name__.lower()
        RUNS_FINISHED.labels(name).inc()
        log.get().info("run_ended", run=run_id, attempt=attempt, outcome=name)


def _spec(plan: Placement | Crashed | Skipped) -> ClusterSpec | None:
    return plan.spec if isinstance(plan, Placement) else None


def _note_claimed(run: ClaimedRun) -> None:
    CLAIMS.labels("accepted").inc()
    late_s = (datetime.now(UTC) - run.due.due_at).total_seconds()
    SCHEDULE_TO_CLAIM.observe(max(0.0, late_s))
    log.get().info("run_claimed", run=run.id, attempt=run.attempt, late_s=round(late_s, 3))
