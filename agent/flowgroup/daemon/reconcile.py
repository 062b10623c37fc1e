"""
The truth, both ways: what the API thinks is under way and what drivers carry.

At start, and every 30 s: an attempt that a driver has and no journey holds gets its journey back; a run of ours that
nothing carries ends, or is given back, with the reason. Runs of other agents on the pool are never touched: ours are
those whose last claim has our mark.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flowgroup import log
from flowgroup.daemon.points import reached
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.wake import Wake
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.errors import FlowgroupError
from flowgroup.model.causes import marked
from flowgroup.model.ids import AttemptId, ClusterName, RunId, made_by
from flowgroup.model.orders import Attempt
from flowgroup.model.runs import Cancelled, Crashed, Ended, GivenBack, Outcome, SentRun
from flowgroup.model.states import SeenRun, StateType, is_left_behind

_EVERY_S = 30.0
_RETURN_TIMEOUT_S = 15.0
_SEALS_TIMEOUT_S = 60.0
_LOOK_EVERY_S = 0.5
_UNDER_WAY: tuple[StateType, ...] = ("PENDING", "RUNNING", "CANCELLING", "PAUSED")


class Api(Protocol):
    async def runs_in(self, *types: StateType) -> list[SeenRun]: ...
    async def runs_named(self, *names: str) -> list[SeenRun]: ...
    async def read(self, run_id: RunId) -> SeenRun | None: ...
    async def last_claim(self, run_id: RunId) -> AttemptId | None: ...
    async def end_of(self, run_id: RunId) -> Ended | None: ...


class Clusters(Protocol):
    def names(self) -> list[ClusterName]: ...
    async def look(self, name: ClusterName) -> str | None: ...
    def lease(self, name: ClusterName, run_id: RunId) -> AbstractContextManager[None]: ...


class Drivers(Protocol):
    def carried(self) -> list[tuple[ClusterName, Attempt]]: ...
    def has_reported(self, cluster: ClusterName) -> bool: ...
    def sealed(self) -> list[tuple[ClusterName, str]]: ...


class Teller(Protocol):
    async def tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> Outcome: ...


class Attempts(Protocol):
    @property
    def is_whole(self) -> bool: ...
    def unsealed(self, shown: Iterable[tuple[ClusterName, str]]) -> list[OpenAttempt]: ...
    def found(self, attempts: Iterable[OpenAttempt]) -> None: ...
    def listed(self) -> list[OpenAttempt]: ...
    async def close(self, attempt: AttemptId) -> None: ...


@dataclass(slots=True)
class Reconcile:
    """`resume` carries on with a run that a driver has; `wake` rings when a driver has come or reported."""

    api: Api
    clusters: Clusters
    drivers: Drivers
    slots: Slots
    teller: Teller
    attempts: Attempts
    resume: Callable[[SentRun], Awaitable[None]]
    wake: Wake
    owner: str
    moved: Callable[[], None] = lambda: None
    resuming: set[RunId] = field(default_factory=set)
    _is_settled: bool = field(default=False, init=False)

    def is_settled(self) -> bool:
        """Whether the drivers of a former daemon have said what they carry, or had their time to."""
        return self._is_settled

    async def run(self) -> None:
        """Wait for the drivers of a former daemon, then compare for ever."""
        async with asyncio.TaskGroup() as resumed:
            await self._drivers_back(resumed)
            if not self.attempts.is_whole:
                await self._remember()
            self._is_settled = True
            next_at = 0.0
            while True:
                self.moved()
                self._resume_all(resumed)
                if asyncio.get_running_loop().time() >= next_at:
                    await self._compare()
                    next_at = asyncio.get_running_loop().time() + _EVERY_S
                await asyncio.sleep(_LOOK_EVERY_S)
                await self.wake.wait(next_at - asyncio.get_running_loop().time())

    async def _drivers_back(self, resumed: asyncio.TaskGroup) -> None:
        """Until every cluster's driver has reported or is dead, for some seconds at most: longer if runs hang on it."""
        timeout_s = _RETURN_TIMEOUT_S if self.attempts.is_whole else _SEALS_TIMEOUT_S
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            self._resume_all(resumed)
            away = [name for name in self.clusters.names() if not self.drivers.has_reported(name)]
            if all([await self.clusters.look(name) is not None for name in away]):
                return
            await self.wake.wait(_LOOK_EVERY_S)
        log.get().warning("drivers_not_back", clusters=away, waited_s=timeout_s)

    async def _remember(self) -> None:
        """What a former daemon had open and left no file of, from what drivers show of it."""
        found = [one for one in self.attempts.unsealed(self.drivers.sealed()) if await self._is_claimed(one)]
        self.attempts.found(found)
        if found:
            log.get().warning("attempts_remembered", attempts=len(found), reason="this home has no attempts.json")

    async def _is_claimed(self, one: OpenAttempt) -> bool:
        """A seal of an attempt that is over opens nothing. An API that does not say so now must end no run."""
        self.moved()
        try:
            return await self.api.last_claim(one.run_id) == one.attempt
        except FlowgroupError as exc:
            log.get().warning("claim_not_read", run=one.run_id, reason=str(exc))
            return True

    def _resume_all(self, resumed: asyncio.TaskGroup) -> None:
        busy = self.slots.held | self.resuming
        for cluster, attempt in self.drivers.carried():
            if attempt.run_id not in busy:
                self.resuming.add(attempt.run_id)
                sent = SentRun(id=attempt.run_id, attempt=attempt.attempt, cluster=cluster)
                resumed.create_task(self._resume(sent), name=f"run {sent.id}")

    async def _resume(self, sent: SentRun) -> None:
        """A run that has not begun yet has its concurrency lease in its state; without an answer it goes without."""
        reached("resuming")
        with self.clusters.lease(sent.cluster, sent.id):  # the API may take its time
            try:
                seen = await self.api.read(sent.id)
                if seen and seen.state.attempt == sent.attempt:
                    sent = replace(sent, lease=seen.state.lease)
            except FlowgroupError as exc:
                log.get().warning("run_resumed_unread", run=sent.id, reason=str(exc))
            try:
                await self.resume(sent)
            finally:
                self.resuming.discard(sent.id)

    async def _compare(self) -> None:
        try:
            runs = await self.api.runs_in(*_UNDER_WAY)
            runs += await self.api.runs_named("AwaitingRetry")
            runs += await self._elsewhere({run.id for run in runs})
            for run in runs:
                self.moved()
                await self._judge(run)
            await self._close_stale()
        except FlowgroupError as exc:  # compared again in 30 s
            log.get().warning("reconcile_put_off", reason=str(exc))

    async def _elsewhere(self, known: set[RunId]) -> list[SeenRun]:
        """Runs that we opened, that nothing carries and that the pool does not show any more: its queue was deleted."""
        lost = {one.run_id for one in self.attempts.listed() if not self._is_carried(one.run_id)} - known
        seen = [await self.api.read(run_id) for run_id in lost]
        return [run for run in seen if run is not None and run.state.type in _UNDER_WAY]

    async def _judge(self, run: SeenRun) -> None:
        if is_left_behind(run) or self._is_carried(run.id):
            return
        attempt = await self.api.last_claim(run.id)
        if attempt is None or not made_by(self.owner, attempt):
            return
        if self._is_carried(run.id) or await self._may_live(attempt):
            return
        log.get().warning("run_without_carrier", run=run.id, attempt=attempt, state=run.state.type)
        reached("judging")
        await self.attempts.close(attempt)
        end = None if run.state.type == "CANCELLING" else await self.api.end_of(run.id)
        await patiently(self.teller.tell(run.id, attempt, end or verdict(run)), self.moved)

    async def _may_live(self, attempt: AttemptId) -> bool:
        """Whether the attempt is on a cluster whose processes live, though its driver says nothing."""
        clusters = [one.cluster for one in self.attempts.listed() if one.attempt == attempt]
        return any([await self._is_silent(cluster) for cluster in clusters])

    async def _is_silent(self, cluster: ClusterName) -> bool:
        return not self.drivers.has_reported(cluster) and await self.clusters.look(cluster) is None

    def _is_carried(self, run_id: RunId) -> bool:
        carried = {attempt.run_id for _, attempt in self.drivers.carried()}
        return run_id in self.slots.held | self.resuming | carried

    async def _close_stale(self) -> None:
        """Close at the relay what nothing carries any more."""
        for one in self.attempts.listed():
            if not self._is_carried(one.run_id) and not await self._is_silent(one.cluster):
                await self.attempts.close(one.attempt)


async def patiently(telling: Coroutine[Any, Any, object], moved: Callable[[], None]) -> None:
    """Wait for what may last as long as an outage of the API, and move: to wait for somebody else is not to be stuck."""
    task = asyncio.create_task(telling, name="tell")
    try:
        while not task.done():
            moved()
            await asyncio.wait([task], timeout=_EVERY_S)
        await task
    finally:
        task.cancel()


def verdict(run: SeenRun) -> Outcome:
    """How a run of ours ended that nothing carries."""
    if run.state.type == "CANCELLING":
        return Cancelled("Cancelled; nothing was running it any more.")
    if run.state.type == "PENDING":
        return GivenBack("The agent was restarted before the run started.")
    gone = "The run's process is gone: its cluster or this machine was restarted, or the cluster was deleted. "
    return Crashed(marked("child-gone", gone + "Start the run again."))
