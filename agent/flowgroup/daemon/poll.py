"""
Ask what is due, and start a journey for each. The only loop that starts runs.

It asks every few seconds, at once when the event stream rings, and at the moment when a run that was seen ahead may be
claimed; more often while there is no stream. It never starts a run from memory: an older answer may name runs that have
ended meanwhile, and Prefect lets a failed run be claimed again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.fair import in_turns
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.wake import Wake
from flowgroup.edge.wire import Unauthorized
from flowgroup.errors import Permanent, Transient
from flowgroup.metrics import LAST_POLL, POLLS
from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.runs import DueRun
from flowgroup.retry import pause_s

_PAGE = 200
_PAGES = 5
_NEXT = timedelta(microseconds=1)
_GAP_S = 0.1  # between two questions, however often the bell rings
_GAP_EACH_S, _GAP_MAX_S = 0.05, 0.5  # each run that was just started gives the API something to do: ask less often then
_FULL_INTERVAL_S = 30.0  # asking is also what makes Prefect show deployments as ready
_JITTER = 0.2
_WITHOUT_STREAM = 0.5  # of the interval


class Api(Protocol):
    async def due(
        self, *, limit: int, before: datetime, after: datetime | None = None, queues: Sequence[str] = ()
    ) -> list[DueRun]: ...


class Held(Protocol):
    def why(self, due: DueRun) -> str | None: ...
    async def note(self, offered: set[RunId], reasons: Mapping[RunId, str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Rhythm:
    interval_s: float
    ahead_s: float
    claim_ahead_s: float
    queues: tuple[str, ...] = ()


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Poll:
    """`carry` carries one run, and says for how many seconds it need not be looked at again."""

    api: Api
    carry: Callable[[DueRun], Awaitable[float]]
    slots: Slots
    wake: Wake
    rhythm: Rhythm
    moved: Callable[[], None] = lambda: None
    first_done: Callable[[], None] = lambda: None
    is_streamed: Callable[[], bool] = lambda: True
    now: Callable[[], datetime] = utc_now
    held: Held | None = None
    _left_until: dict[RunId, float] = field(default_factory=dict)
    _started: set[RunId] = field(default_factory=set)
    _flows: dict[RunId, FlowId] = field(default_factory=dict)
    _is_full: bool = False
    _just_started: int = 0
    _failures: int = 0

    async def run(self) -> None:
        """Ask and start, without end."""
        async with asyncio.TaskGroup() as journeys:
            is_rung = False
            while True:
                self.moved()
                wait_s = await self._ask(journeys)
                gap_s = self._gap_s() if is_rung else 0.0
                await asyncio.sleep(gap_s)
                is_rung = await self.wake.wait(wait_s - gap_s)
                while not self.slots.free:  # a slot that is given back nudges
                    self.moved()
                    self.wake.is_hungry = True
                    if not await self.wake.wait(_FULL_INTERVAL_S):
                        break

    async def _ask(self, journeys: asyncio.TaskGroup) -> float:
        """Ask once and start what is due. Returns when to ask again, unless the bell rings before."""
        asked_at, limit = asyncio.get_running_loop().time(), self._limit()
        try:
            runs = await self._due(limit)
        except (Transient, Permanent) as exc:
            return self._failed(exc)
        self._succeeded()
        log.get().debug("due_runs_asked", found=len(runs), limit=limit)
        waits_s = {run.id: self._wait_s(run) for run in runs if self._is_free(run, asked_at)}
        due = [run for run in runs if waits_s.get(run.id, 1.0) <= 0.0]
        held = self._held_back(due, journeys, {run.id for run in runs})
        due = [run for run in due if run.id not in held]
        tried = self._started & {run.id for run in runs}
        new = [run for run in due if run.id not in tried]
        start = (self._in_turns(new) + self._in_turns([run for run in due if run.id in tried]))[: self.slots.free]
        self._is_full = len(runs) >= limit
        self.wake.is_hungry = len(new) > len(start) or bool(held) or (self._is_full and bool(new))
        for run in start:
            log.get().debug("run_due", run=run.id)
            self._flows[run.id] = run.flow_id
            journeys.create_task(self._carry(run), name=f"run {run.id}")
        self._left_until = {run: until for run, until in self._left_until.items() if until > asked_at}
        self._started = tried | {run.id for run in start}
        self._just_started = len(start)
        return min([wait_s for wait_s in waits_s.values() if wait_s > 0.0] + [self._interval_s()])

    def _limit(self) -> int:
        """As many as may be started, and those that are at the head of the line but could not be; all, if there are many."""
        if self._is_full:
            return _PAGE
        return min(_PAGE, max(1, self.slots.free + len(self._left_until.keys() | self._started)))

    async def _due(self, limit: int) -> list[DueRun]:
        """What is due, and what soon will be; should that fill the page, it must not hide what is due."""
        runs = await self._before(max(self.rhythm.ahead_s, self.rhythm.claim_ahead_s), limit)
        if len(runs) < limit:
            return runs
        page = runs
        if any(self._wait_s(run) > 0.0 for run in runs):
            page = await self._before(self.rhythm.claim_ahead_s, limit)
            runs = _without_doubles(page, runs)
        return await self._past_what_waits(runs, page, limit)

    async def _past_what_waits(self, runs: list[DueRun], page: list[DueRun], limit: int) -> list[DueRun]:
        """A page full of runs that wait for a limit must not hide those that do not: look at what is due after them."""
        for _ in range(_PAGES):
            if limit < _PAGE or len(page) < limit or not all(self._waits(run) for run in page):
                break
            after = max(run.due_at for run in page) + _NEXT
            page = await self._before(self.rhythm.claim_ahead_s, limit, after)
            runs = _without_doubles(runs, page)
        return runs

    def _waits(self, run: DueRun) -> bool:
        is_free = self._is_free(run, asyncio.get_running_loop().time())
        return not is_free or (self.held is not None and self.held.why(run) is not None)

    def _held_back(self, due: Sequence[DueRun], tasks: asyncio.TaskGroup, offered: set[RunId]) -> Mapping[RunId, str]:
        """Why those of these runs wait that do."""
        if self.held is None:
            return {}
        reasons = {run.id: reason for run in due if (reason := self.held.why(run))}
        tasks.create_task(self.held.note(offered, reasons), name="say what waits")
        return reasons

    def _in_turns(self, runs: Sequence[DueRun]) -> list[DueRun]:
        self._flows = {run: flow for run, flow in self._flows.items() if run in self.slots.held}
        return in_turns(runs, Counter(self._flows.values()))

    async def _before(self, ahead_s: float, limit: int, after: datetime | None = None) -> list[DueRun]:
        before = self.now() + timedelta(seconds=ahead_s)
        return await self.api.due(limit=limit, before=before, after=after, queues=self.rhythm.queues)

    def _gap_s(self) -> float:
        return max(_GAP_S, min(_GAP_MAX_S, _GAP_EACH_S * self._just_started))

    def _is_free(self, run: DueRun, asked_at: float) -> bool:
        """No journey has it now, or had it after we asked: what we were told of it may be older than that."""
        return run.id not in self.slots.held and self._left_until.get(run.id, 0.0) <= asked_at

    async def _carry(self, run: DueRun) -> None:
        pause_s = 0.0
        try:
            pause_s = await self.carry(run)
        finally:
            self._left_until[run.id] = asyncio.get_running_loop().time() + pause_s

    def _wait_s(self, run: DueRun) -> float:
        """For how long the run must not be claimed yet; 0 or less: it may be claimed."""
        return (run.due_at - self.now()).total_seconds() - self.rhythm.claim_ahead_s

    def _interval_s(self) -> float:
        share = 1.0 if self.is_streamed() else _WITHOUT_STREAM
        return share * self.rhythm.interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311

    def _succeeded(self) -> None:
        if self._failures:
            log.get().info("api_answers_again", after_failures=self._failures)
        self._failures = 0
        POLLS.labels("ok").inc()
        LAST_POLL.set_to_current_time()
        self.first_done()

    def _failed(self, exc: Transient | Permanent) -> float:
        """No retry here: the loop is the retry."""
        self._failures += 1
        POLLS.labels("unauthorized" if isinstance(exc, Unauthorized) else "failed").inc()
        said = log.get().warning if self._failures == 1 else log.get().debug
        said("due_runs_not_asked", reason=str(exc), failures=self._failures)
        asked_s = exc.retry_after_s if isinstance(exc, Transient) else None
        return max(self._interval_s(), pause_s(self._failures, asked_s))


def _without_doubles(runs: list[DueRun], more: list[DueRun]) -> list[DueRun]:
    known = {run.id for run in runs}
    return runs + [run for run in more if run.id not in known]
