"""A spool whose API is a function of this process: what it makes of each call is decided by the test."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgroup.errors import Transient
from flowgroup.relay.pace import Pace
from flowgroup.relay.spool.disk import Batch, Disk
from flowgroup.relay.spool.rows import Kind, Row, at_us
from flowgroup.relay.spool.spooling import Spool
from flowgroup.relay.spool.upward import Answer, Fate, fate_of
from flowgroup.relay.spool.writer import Inline

RUN = "11111111-1111-4111-8111-111111111111"
MIB = 1024 * 1024


def record(number: int, level: int = 20, run: str = RUN, **more: Any) -> dict[str, Any]:
    at = "2026-01-01T00:00:00+00:00"
    return {"name": "n", "level": level, "message": f"{number}", "timestamp": at, "flow_run_id": run, **more}


def rows(*numbers: int, level: int = 20, run: str = RUN, size: int = 0) -> list[Row]:
    return [
        Row(json.dumps(record(number, level, run) | {"x": "." * size}).encode(), run, 1_000_000 + number, level)
        for number in numbers
    ]


def batch(*numbers: int, kind: Kind = Kind.LOGS, desk: str | None = None, number: int = 0, **more: Any) -> Batch:
    return Batch(kind, rows(*numbers, **more), desk, number)


def a_disk(folder: Path, *, limit: int = 512 * MIB, reserve: int = 32 * MIB, **more: Any) -> Disk:
    return Disk(folder / "spool", limit, reserve, **more)


def waiting(disk: Disk, kind: Kind = Kind.LOGS) -> list[int]:
    """The numbers of what waits, in order."""
    found = disk._db.execute(f"SELECT body FROM {kind} ORDER BY seq")
    return [int(json.loads(body)["message"]) for (body,) in found]


@dataclass
class API:
    """
    In the place of `Upward`. `plan` gives the outcomes of the next calls with records: a status, "lost" (carried out, no
    answer), "broken" (not carried out, no answer), "late" (carried out 40 s after the connection broke), "slow" (carried out
    and answered after 40 s), "locked" (answered 503 after 40 s), "refused" (the connection). After it all is well.
    """

    plan: list[int | str] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    cursed: set[str] = field(default_factory=set)  # answered 500
    entries: dict[Kind, list[dict[str, Any]]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    calls: list[tuple[float, Kind, int]] = field(default_factory=list)
    reads: int = 0
    readable: bool = True

    async def post(self, kind: Kind, bodies: Sequence[bytes]) -> Answer:
        records = [json.loads(body) for body in bodies]
        self.calls.append((asyncio.get_running_loop().time(), kind, len(records)))
        outcome, verdict = self.plan.pop(0) if self.plan else 200, self._verdict(records)
        await asyncio.sleep(0.05)
        if outcome == 200:
            outcome = verdict
        if outcome in (200, "lost") and verdict == 200:
            self.take(kind, records)
        if outcome == "late" and verdict == 200:
            asyncio.get_running_loop().call_later(40.0, self.take, kind, records)
        if outcome in ("slow", "locked"):
            under_way = asyncio.create_task(self._slowly(kind, records, verdict if outcome == "slow" else 503))
            await asyncio.sleep(20.0)
            return Answer(Fate.DOUBTFUL, outcome, under_way=under_way)
        if isinstance(outcome, int):
            return Answer(fate_of(outcome), "", outcome)
        return Answer(Fate.NOT_NOW if outcome == "refused" else Fate.DOUBTFUL, outcome)

    async def _slowly(self, kind: Kind, records: list[dict[str, Any]], status: int) -> Answer:
        await asyncio.sleep(40.0)
        if status == 200:
            self.take(kind, records)
        return Answer(fate_of(status), "", status)

    def _verdict(self, records: list[dict[str, Any]]) -> int:
        said = {one["message"] for one in records}
        return 422 if said & self.poison else 500 if said & self.cursed else 200

    def take(self, kind: Kind, records: list[dict[str, Any]]) -> None:
        there = {one.get("id") for one in self.entries[kind]} if kind is Kind.EVENTS else set()
        self.entries[kind] += [one for one in records if one.get("id") not in there or kind is Kind.LOGS]

    async def read_logs(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        self.reads += 1
        if self.plan and self.plan.pop(0) != 200:
            raise Transient("it is away")
        runs, times = asked["logs"]["flow_run_id"]["any_"], asked["logs"]["timestamp"]
        first, last = at_us(times["after_"]) or 0, at_us(times["before_"]) or 0
        found = [
            one
            for one in self.entries[Kind.LOGS]
            if one["flow_run_id"] in runs and first <= (at_us(one["timestamp"]) or 0) <= last
        ]
        found.sort(key=lambda one: at_us(one["timestamp"]) or 0)
        return found[asked["offset"] : asked["offset"] + asked["limit"]]

    def numbers(self, kind: Kind = Kind.LOGS) -> list[int]:
        return [int(one["message"]) for one in self.entries[kind]]


def a_spool(disk: Disk, api: API, pace: Pace | None = None) -> Spool:
    """In one thread, so that its time may be virtual."""
    return Spool(disk, Inline(disk), api, pace or Pace())  # type: ignore[arg-type]


async def until(is_so: Callable[[], Any], timeout_s: float = 3600.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.5)
