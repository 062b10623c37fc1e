"""The spool as the rest of the relay knows it: `store` returns when it is on disk, and what is on disk goes to the API."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from flowgroup import log, metrics
from flowgroup.edge import forward
from flowgroup.errors import Transient
from flowgroup.model.ids import RunId
from flowgroup.model.lines import WARNING, line
from flowgroup.relay.pace import Pace
from flowgroup.relay.spool.delivery import Delivery
from flowgroup.relay.spool.disk import Batch, Disk
from flowgroup.relay.spool.rows import Kind, Row, Times, event_row, log_row
from flowgroup.relay.spool.stream import Stream
from flowgroup.relay.spool.upward import Upward
from flowgroup.relay.spool.writer import Doing, Writer
from flowgroup.relay.turns import in_between
from flowgroup.relay.upstream import Upstream
from flowgroup.settings import RelaySettings

_LOOK_S = 5.0
_FEW_EVENTS = 500
_BODY_KNOWN_S = 3600.0
# A call on a connection that the server is just closing is a call without an answer, which costs lines a minute.
_KEEPALIVE_S = 1.0


class Spool:
    """`doing` carries out what is asked of `disk`, and nobody else does. Its tasks are `run`."""

    def __init__(
        self, disk: Disk, doing: Doing, upward: Upward, pace: Pace, moved: Callable[[], None] = lambda: None
    ) -> None:
        self._doing, self._moved = doing, moved
        self._waiting = disk.waiting  # only looked at
        self._times = Times()
        for run, at in disk.times():
            self._times.own(run, at)
        self._events = Delivery(Kind.EVENTS, doing, upward, pace, clock=disk.clock)
        self._logs = Delivery(Kind.LOGS, doing, upward, pace, may_go=self._events_are_few, clock=disk.clock)
        self._logs.recovered = self._events.again.set
        self._deliveries = {Kind.EVENTS: self._events, Kind.LOGS: self._logs}

    async def store(
        self,
        *,
        logs: Sequence[dict[str, Any]] = (),
        events: Sequence[dict[str, Any]] = (),
        desk: str | None = None,
        number: int = 0,
        is_body: bool = False,
    ) -> None:
        """
        Return when they are on disk. `desk` and `number` name the batch, which may come again; with `is_body` the desk is
        not known for long. Raises Transient when there is no room, or the disk does not work.
        """
        rows = {
            Kind.EVENTS: [event_row(event) async for event in in_between(events)],
            Kind.LOGS: [log_row(record, self._times) async for record in in_between(logs)],
        }
        known = {"known_s": _BODY_KNOWN_S} if is_body else {}
        batches = [Batch(kind, of, desk, number, **known) for kind, of in rows.items() if of]
        if not batches:
            return
        await self._doing.do(lambda disk: [disk.store(batch) for batch in batches])
        for batch in batches:
            self._deliveries[batch.kind].something.set()

    async def run(self) -> None:
        """Deliver, and look after the file, without end."""
        async with asyncio.TaskGroup() as tasks:
            for kind, delivery in self._deliveries.items():
                tasks.create_task(delivery.run(), name=f"deliver {kind}")
            tasks.create_task(self._look_after(), name="spool levels")

    def _events_are_few(self) -> bool:
        """States first: after an outage lines wait until the events are there, unless the API does not take those."""
        are_not_taken = self._events.tries > 0 and not self._events.again.is_set()
        return are_not_taken or self._waiting[Kind.EVENTS].records <= _FEW_EVENTS

    async def _look_after(self) -> None:
        while True:
            self._moved()
            with contextlib.suppress(Transient):  # the writer has said it
                if await self._doing.do(_looked):
                    self._logs.something.set()
            await asyncio.sleep(_LOOK_S)


def _looked(disk: Disk) -> bool:
    """Tell the levels, and runs what they lost; whether there is something to deliver now."""
    told = [Row(json.dumps(_loss(run, lines)).encode(), run, level=WARNING) for run, lines in disk.take_shed().items()]
    if told:
        disk.store(Batch(Kind.LOGS, told))
    for kind, level in disk.waiting.items():
        metrics.RELAY_SPOOL_RECORDS.labels(kind).set(level.records)
        metrics.RELAY_SPOOL_BYTES.labels(kind).set(level.bytes)
    if not any(level.records for level in disk.waiting.values()):
        disk.tidy()
    return bool(told)


def _loss(run: str, lines: int) -> dict[str, Any]:
    said = (
        f"flowgroup's relay dropped {lines} lines of this run, those of the lowest level first: Prefect's API did not take "
        "them for so long that its spool was full (FLOWGROUP_RELAY_SPOOL_LIMIT_BYTES)."
    )
    return line(RunId(run), "flowgroup.relay", WARNING, said, datetime.now(UTC))


@asynccontextmanager
async def spooling(
    settings: RelaySettings,
    upstream: Upstream,
    folder: Path,
    moved: Callable[[], None] = lambda: None,
    *,
    through: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Spool]:
    """
    The spool in `folder`, delivering, until the end of the block; `moved` is called while its disk answers, `through` is a
    transport where one is given. Raises Refused when the folder cannot be used.
    """
    disk = Disk(folder, settings.spool_limit_bytes, settings.spool_reserve_bytes)
    metrics.RELAY_SPOOL_LIMIT.set(settings.spool_limit_bytes)
    log.get().info("spool_opened", at=str(folder), sqlite=sqlite3.sqlite_version, **_found(disk))
    writer = Writer(disk)
    own = forward.client(verify=upstream.verify or False, keepalive_s=_KEEPALIVE_S, through=through)
    stream = Stream(upstream, settings.hold_s) if upstream.is_cloud else None
    async with own as client:
        spool = Spool(disk, writer, Upward(upstream, client, settings.hold_s, stream), upstream.pace, moved)
        running = asyncio.create_task(_always(spool), name="spool")
        try:
            yield spool
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if stream:
                await stream.close()
            await writer.close()


def _found(disk: Disk) -> dict[str, int]:
    return {str(kind): level.records for kind, level in disk.waiting.items()}


async def _always(spool: Spool) -> None:
    while True:
        try:
            await spool.run()
        except Exception:  # noqa: BLE001  what is on disk must be delivered: a defect of ours costs a second
            log.get().exception("spool_defect")
        await asyncio.sleep(1.0)
