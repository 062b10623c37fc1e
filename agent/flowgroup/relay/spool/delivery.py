"""
One kind of records, from the spool to Prefect's API: in order, one call at a time, for as long as it takes.

In: what waits on disk, noted as on its way before it is sent (logs). Out: deleted when the API has it, or moved to the
dead letters when it refuses it for ever. Events have ids, and are just sent again after an answer that was lost; lines are
read back first.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flowgroup import log, metrics
from flowgroup.errors import Transient
from flowgroup.relay.pace import Pace
from flowgroup.relay.spool import readback
from flowgroup.relay.spool.disk import Disk, Flight, Kept
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.upward import CARRIED_OUT_WITHIN_S, Answer, Fate, Upward
from flowgroup.relay.spool.writer import Doing
from flowgroup.retry import pause_s

_MOST_RECORDS = 500  # a Prefect server over SQLite takes 0.25 s for so many, and 1.9 s for 2000
_MOST_BYTES = 2 * 1024 * 1024
_LONGEST_PAUSE_S = 10.0
_SUSPECT_AFTER = 5
_MORE_TRIES = 2  # for each record that seems to be bad
_NOTED_S = 5.0
_TURN_S = 0.1
_LEAST_S = 0.05  # between two looks: a rest of nanoseconds would be a look, and a call, for each of them
_SERVER_ERROR = 500

T = TypeVar("T")


class _Failed(Exception):
    """A call that has to be made again: what it was answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"it answered {answer.status}" if answer.status else answer.said)
        self.answer = answer


@dataclass
class _Round:
    """
    What has become of a flight's records. `until`: those that are left may be at the API, or come to be there until then;
    None: they are not. `noted`: when the disk was told that they are on their way. `under_way`: a call that has no answer yet.
    """

    flight: Flight
    left: list[Kept]
    until: float | None
    noted: float
    taken: list[Kept] = field(default_factory=list)
    dead: list[tuple[Kept, str]] = field(default_factory=list)
    under_way: asyncio.Task[Answer] | None = None

    def is_doubtful(self, answer: Answer, now: float) -> None:
        """A call may have been carried out, or may still be."""
        self.until, self.under_way = now + answer.late_s, answer.under_way

    def hear(self, now: float) -> None:
        """The call that was under way may have its answer by now."""
        if self.until is not None and self.under_way is not None and self.under_way.done():
            self.until = min(self.until, now + self.under_way.result().late_s)
            self.under_way = None

    def give_up(self) -> None:
        """Nobody waits for the call's answer any more."""
        if self.under_way is not None:
            self.under_way.cancel()
            self.under_way = None

    def sort_out(self) -> None:
        gone = {one.seq for one in (*self.taken, *(dead for dead, _ in self.dead))}
        self.left = [one for one in self.left if one.seq not in gone]


@dataclass
class _Search:
    """For records that the API answers 500 to, each alone: it is they if it takes others meanwhile, else it is the API."""

    round: _Round
    taken_before: int
    found: list[tuple[Kept, str]] = field(default_factory=list)

    @property
    def works(self) -> bool:
        return len(self.round.taken) > self.taken_before


@dataclass
class Delivery:
    """`may_go` says whether it is this kind's turn; `recovered` is told when a call is taken after some that were not."""

    kind: Kind
    doing: Doing
    upward: Upward
    pace: Pace
    may_go: Callable[[], bool] = lambda: True
    clock: Callable[[], float] = time.time
    recovered: Callable[[], None] = lambda: None
    something: asyncio.Event = field(default_factory=asyncio.Event)
    again: asyncio.Event = field(default_factory=asyncio.Event)  # the API takes other things now
    tries: int = 0  # that failed since the last call that was taken
    _errors: int = 0  # how many of them with 500, one after the other

    async def run(self) -> None:
        """Deliver, without end."""
        while True:
            self.something.clear()
            flight = await self._patiently(
                lambda disk: disk.next(self.kind, most=_MOST_RECORDS, most_bytes=_MOST_BYTES)
            )
            if flight is None:
                await self.something.wait()
            else:
                await self._deliver(flight)

    async def _deliver(self, flight: Flight) -> None:
        until = None if flight.since is None else min(flight.since, self.clock()) + CARRIED_OUT_WITHIN_S
        round_ = _Round(flight, list(flight.kept), until, self.clock())
        try:
            await self._through(round_)
        finally:
            round_.give_up()
        await self._settled(round_)

    async def _through(self, round_: _Round) -> None:
        """Until nothing of the round is left, or what is left goes with the next one."""
        while round_.left:
            if not self.may_go():
                await asyncio.sleep(_TURN_S)
                continue
            try:
                await self._attempt(round_)
            except _Failed as exc:
                self._errors = self._errors + 1 if exc.answer.status == _SERVER_ERROR else 0
                await self._wait(str(exc), exc.answer.asked_s)
                if self._errors > _SUSPECT_AFTER and exc.answer.fate is Fate.NOT_NOW:
                    await self._patiently(lambda disk: disk.forget_flight(self.kind))  # the next one has others with it
                    break
            except Transient as exc:
                await self._wait(str(exc), exc.retry_after_s)
            else:
                self._worked()

    async def _attempt(self, round_: _Round) -> None:
        """One try for all that is left. Raises _Failed and Transient."""
        if round_.until is not None and self.kind is Kind.LOGS:
            await self._read_back(round_)
        if not round_.left:
            return
        round_.give_up()
        try:
            if self._errors >= _SUSPECT_AFTER:
                await self._search(round_, list(round_.left))
            else:
                await self._send(round_, list(round_.left))
        except _Failed as exc:
            if exc.answer.fate is Fate.DOUBTFUL:
                round_.is_doubtful(exc.answer, self.clock())
            raise
        finally:
            round_.sort_out()
        round_.left = []

    async def _search(self, round_: _Round, kept: list[Kept]) -> None:
        """
        Find those that the API answers 500 to and not to others. Each is tried again alone after others were taken: the API
        may have been ill when it was that record's turn, and have got well by the next one's.
        """
        search = _Search(round_, len(round_.taken))
        await self._send(round_, kept, search)
        if search.found and not search.works:
            raise _Failed(Answer(Fate.NOT_NOW, "", _SERVER_ERROR))
        for tries in range(1, _MORE_TRIES + 1):
            if not search.found:
                break
            await asyncio.sleep(pause_s(tries, None, cap_s=_LONGEST_PAUSE_S))
            again = _Search(round_, search.taken_before)
            for one, _ in search.found:
                await self._send(round_, [one], again)
            search = again
        round_.dead += search.found

    async def _send(self, round_: _Round, kept: list[Kept], search: _Search | None = None) -> None:
        """In halves when the API refuses them together: one bad record costs itself alone."""
        await self.pace.turn(len(kept))
        await self._note(round_)
        answer = await self.upward.post(self.kind, [one.row.body for one in kept])
        if answer.fate is Fate.TAKEN:
            round_.taken += kept
            return
        is_error = search is not None and answer.status == _SERVER_ERROR
        if answer.fate is not Fate.NEVER and not is_error:
            raise _Failed(answer)
        if search is not None and is_error and search.found and not search.works:
            raise _Failed(Answer(Fate.NOT_NOW, "", _SERVER_ERROR))
        if len(kept) > 1:
            middle = len(kept) // 2
            await self._send(round_, kept[:middle], search)
            await self._send(round_, kept[middle:], search)
        else:
            told = search.found if search is not None and is_error else round_.dead
            told.append((kept[0], f"{answer.status or ''} {answer.said}".strip()))

    async def _note(self, round_: _Round) -> None:
        """A relay that is killed now must know how long ago the call was made."""
        if self.kind is Kind.LOGS and self.clock() - round_.noted > _NOTED_S:
            last = round_.flight.kept[-1].seq
            await self._patiently(lambda disk: disk.note_flight(self.kind, last))
            round_.noted = self.clock()

    async def _read_back(self, round_: _Round) -> None:
        """Leave out what the API has. What it has not may still be carried out: it is looked for until it cannot be."""
        assert round_.until is not None
        while True:
            round_.hear(self.clock())
            left, readable = await readback.missing(round_.left, self.upward, self.pace)
            metrics.RELAY_READ_BACK.labels("there").inc(len(round_.left) - len(left))
            absent = {one.seq for one in left}
            round_.taken += [one for one in round_.left if one.seq not in absent]
            round_.left = left
            wait_s = round_.until - self.clock()
            if not left or wait_s <= 0 or not readable:
                break
            await asyncio.sleep(min(max(wait_s, _LEAST_S), 1.0))
        round_.until = None
        metrics.RELAY_READ_BACK.labels("missing" if readable else "unknown").inc(len(left))
        if left and not readable:
            log.get().warning(
                "lines_sent_again", lines=len(left), reason="the API could not be asked whether it has them"
            )

    async def _settled(self, round_: _Round) -> None:
        for one, reason in round_.dead:
            log.get().error("record_refused_by_api", kind=self.kind, run=one.row.run, reason=reason)
        metrics.RELAY_DEAD_LETTERS.labels(self.kind).inc(len(round_.dead))
        metrics.RELAY_DELIVERED.labels(self.kind).inc(len(round_.taken))
        await self._patiently(lambda disk: disk.done(self.kind, round_.flight, round_.taken, round_.dead))

    async def _patiently(self, job: Callable[[Disk], T]) -> T:
        """A job on the disk, for as long as it takes: what the API has taken must not be forgotten."""
        tries = 0
        while True:
            try:
                return await self.doing.do(job)
            except Transient as exc:
                tries += 1
                await asyncio.sleep(0.1 + pause_s(tries, exc.retry_after_s, cap_s=_LONGEST_PAUSE_S))

    async def _wait(self, reason: str, asked_s: float | None) -> None:
        self.tries += 1
        if self.tries == 1:
            log.get().warning("api_takes_no_records", kind=self.kind, reason=reason, then="they wait on disk")
        metrics.RELAY_SPOOL_WAITS.labels(self.kind).inc()
        self.again.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s(self.tries, asked_s, cap_s=_LONGEST_PAUSE_S)):
                await self.again.wait()

    def _worked(self) -> None:
        if self.tries:
            log.get().info("api_takes_records_again", kind=self.kind, after_tries=self.tries)
            self.recovered()
        self.tries = self._errors = 0
