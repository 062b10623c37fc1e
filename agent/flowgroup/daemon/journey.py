"""
One run's journey: the whole daemon in one coroutine.

    due -> held -> planned -> claimed -> placed -> sent -> watched -> told

Before the claim a trouble puts the run down: it is still due, and the poll finds it again. After the claim there is no
next poll: what can be tried again is tried here until the deadline, and then the run is given back.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from flowgroup import log
from flowgroup.daemon import plan as plan_room
from flowgroup.daemon import waiting as waiting_room
from flowgroup.daemon.again import failure
from flowgroup.daemon.cancel import Asked, Cancels
from flowgroup.daemon.cluster import ClusterFailed
from flowgroup.daemon.late import too_late
from flowgroup.daemon.placement import Policy
from flowgroup.daemon.plan import planned
from flowgroup.daemon.points import reached
from flowgroup.daemon.renew import renewed
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.timings import Timings
from flowgroup.daemon.unless import Interrupted, unless
from flowgroup.daemon.waiting import said_meanwhile
from flowgroup.errors import FlowgroupError, NoRoom, Permanent, Refused, Transient
from flowgroup.metrics import (
    CLAIM_TO_RUNNING,
    CLAIMS,
    RUNS_FINISHED,
    SCHEDULE_TO_CLAIM,
    SCHEDULE_TO_RUNNING,
    STAGE_SECONDS,
)
from flowgroup.model.causes import code_of, marked, said
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
    def is_ready(self, name: ClusterName) -> bool: ...
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
    async def tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> Outcome: ...


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
    timings: Timings = field(default_factory=Timings)

    async def carry(self, due: DueRun) -> float:
        """Carry a due run to its end. Returns for how many seconds it need not be looked at again."""
        reached("due")
        with self.slots.hold(due.id) as held:
            if not held:
                return 0.0
            try:
                reached("held")
                plan = await self._plan(due)
                reached("planned")
                turn, room = self.clusters.turn(_spec(plan), due.id), self.caps.room(_spec(plan), due.id)
                with turn as is_ours, room as has_room, self.cancels.listening(due.id) as asked:
                    return await self._carry(due, plan, asked) if is_ours and has_room else 0.0
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
                self.cancels.look_at(sent.id)  # what it was asked for meanwhile was said to nobody
                log.get().info("run_resumed", run=sent.id, attempt=sent.attempt, cluster=sent.cluster)
                outcome = await self._carried(sent.id, sent.attempt, self._watched(sent, asked))
                reached("watched")
                await self._tell(sent.id, sent.attempt, outcome)
                self.drivers.forget(sent.cluster, sent.attempt)
                reached("forgotten")

    async def _plan(self, due: DueRun) -> Placement | Crashed | Skipped:
        """Where the run goes. A refusal is said in the run's state, so it is a plan too."""
        try:
            plan = await planned(self.api, due, self.policy)
            self.caps.check(plan.spec)
            return too_late(due, plan.skip_if_late_s, datetime.now(UTC)) or plan
        except Refused as exc:
            words = str(exc)
            return Crashed(words if code_of(words) else marked("deployment-refused", words))

    async def _carry(self, due: DueRun, plan: Placement | Crashed | Skipped, asked: Asked) -> float:
        """`asked` is listened to before the claim: from then on the run may be cancelled."""
        attempt = new_attempt(self.owner, uuid.uuid4())
        reached("claiming")
        with STAGE_SECONDS.labels("claimed").time():
            run = await self.claims.claim(due, attempt)
        if isinstance(run, NotClaimed):
            CLAIMS.labels("refused").inc()
            log.get().info("run_not_claimed", run=due.id, reason=run.reason, again_in_s=run.delay_s)
            return run.delay_s
        _note_claimed(run)
        self.timings.claimed(run, plan.spec.name if isinstance(plan, Placement) else None)
        reached("claimed")
        if isinstance(plan, Crashed | Skipped):
            await self._tell(run.id, attempt, plan)
        else:
            with self.clusters.lease(plan.spec.name, run.id, plan.idle_timeout_s):
                outcome = await self._carried(run.id, attempt, self._outcome(run, plan, asked))
                reached("watched")
                await self._tell(run.id, attempt, outcome)
                self.drivers.forget(plan.spec.name, attempt)
                reached("forgotten")
        self.claims.ended(due)
        return 0.0

    async def _outcome(self, run: ClaimedRun, plan: Placement, asked: Asked) -> Outcome:
        clock = asyncio.get_running_loop().time
        began, cluster = clock(), "warm" if self.clusters.is_ready(plan.spec.name) else "cold"
        async with renewed(self.api, run.lease) as stop_renewing:
            sent = await self._sent(run, plan, asked)
            sent_at = clock()
            self.timings.reached(run.id, "placed")

            def on_running() -> None:
                stop_renewing()
                self.timings.reached(run.id, "started")
                STAGE_SECONDS.labels("started").observe(clock() - sent_at)
                CLAIM_TO_RUNNING.labels(cluster).observe(clock() - began)
                SCHEDULE_TO_RUNNING.labels(cluster).observe(_late_s(run))
                log.get().info("run_running", run=run.id, attempt=run.attempt, cluster=sent.cluster)

            return await self.watch.outcome(sent, asked=asked, on_running=on_running)

    async def _watched(self, sent: SentRun, asked: Asked) -> Outcome:
        async with renewed(self.api, sent.lease) as stop_renewing:
            return await self.watch.outcome(sent, asked=asked, on_running=stop_renewing)

    async def _carried(self, run_id: RunId, attempt: AttemptId, carrying: Awaitable[Outcome]) -> Outcome:
        """How the run ended, or what kept us from carrying it."""
        try:
            return await carrying
        except Interrupted:
            return Cancelled("Cancelled before it started.")
        except FlowgroupError as exc:
            if isinstance(exc, ClusterFailed) and exc.start_log:
                await self._log_start_script(run_id, exc.start_log)
            return failure(exc)
        except Exception as exc:  # noqa: BLE001 (the one place) one run's trouble must not become another's
            log.get().exception("run_not_carried", run=run_id, attempt=attempt)
            return Crashed(f"flowgroup failed on this run ({type(exc).__name__}: {exc}). Its own log says more.")

    async def _sent(self, run: ClaimedRun, plan: Placement, asked: Asked) -> SentRun:
        """Try until the deadline. A daemon that stops meanwhile gives the run back, for no driver has it."""
        trouble: Transient | None = None

        async def once() -> SentRun:
            nonlocal trouble
            try:
                return await self.sender.sent(run, plan)
            except Transient as exc:
                if str(exc) != _said(trouble):
                    log.get().warning("run_not_sent_yet", run=run.id, attempt=run.attempt, reason=str(exc))
                trouble = exc
                raise

        try:
            async with (
                said_meanwhile(self.api, self.clusters, run, plan.spec.name, lambda: _said(trouble)),
                asyncio.timeout(self.cluster_timeout_s),
            ):
                sending = until(once, timeout_s=self.cluster_timeout_s)
                return await unless(asked.cancel, sending, name=f"send {run.id}")
        except TimeoutError as exc:
            unknown = f"cluster {plan.spec.name} was not ready; its logs say why"
            words = await self.clusters.why_waiting(plan.spec.name) or _said(trouble) or unknown
            is_room = isinstance(trouble, NoRoom) or code_of(words) == "quota"  # of pods that others make for us, too
            kind = NoRoom if is_room else Transient
            raise kind(said("cluster-timeout", timeout_s=self.cluster_timeout_s, said=words)) from exc
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
        reached("closing")
        await self.attempts.close(attempt)
        reached("closed")
        with STAGE_SECONDS.labels("told").time():
            outcome = await self.teller.tell(run_id, attempt, outcome)
        reached("told")
        name = type(outcome).__name__.lower()
        RUNS_FINISHED.labels(name).inc()
        self.timings.ended(run_id, name)
        log.get().info("run_ended", run=run_id, attempt=attempt, outcome=name)


def _spec(plan: Placement | Crashed | Skipped) -> ClusterSpec | None:
    return plan.spec if isinstance(plan, Placement) else None


def _said(trouble: Transient | None) -> str | None:
    return str(trouble) if trouble else None


def _note_claimed(run: ClaimedRun) -> None:
    CLAIMS.labels("accepted").inc()
    late_s = _late_s(run)
    SCHEDULE_TO_CLAIM.observe(late_s)
    log.get().info("run_claimed", run=run.id, attempt=run.attempt, late_s=round(late_s, 3))


def _late_s(run: ClaimedRun) -> float:
    """For how long it has been due; one that was claimed ahead of its time is not early."""
    return max(0.0, (datetime.now(UTC) - run.due.due_at).total_seconds())
