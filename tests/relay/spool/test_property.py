"""
Whatever happens, and in whatever order: each record that was acknowledged arrives once, those of a kind in order, and what the
API refuses for ever is a dead letter. Kills take away all but the files.
"""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import looptime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowgroup.relay.spool.disk import Disk
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.spooling import Spool
from tests.relay.spool.world import API, a_disk, a_spool, record, until

_OUTCOMES = st.sampled_from([200, "lost", "broken", "late", "slow", "locked", "refused", 500, 503, 502, 504, 429, 413])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("fail"), st.lists(_OUTCOMES, max_size=4), st.booleans()),
        st.tuples(st.just("kill"), st.sampled_from([0.0, 0.01, 0.06, 0.3, 3.0]), st.booleans()),
        st.tuples(st.just("pause"), st.sampled_from([0.02, 0.1, 1.0, 30.0]), st.booleans()),
    ),
    max_size=25,
)


@dataclass
class Desk:
    """Sends each batch until it is acknowledged, and then the next, as the outbox does."""

    api: API
    folder: Path
    said: int = 0
    number: int = 0
    disk: Disk = field(init=False)
    spool: Spool = field(init=False)
    running: "asyncio.Task[None]" = field(init=False)

    def start(self) -> None:
        self.disk = a_disk(self.folder, clock=asyncio.get_running_loop().time)
        self.spool = a_spool(self.disk, self.api)
        self.running = asyncio.create_task(self.spool.run())

    async def kill(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.disk._db.close()

    async def say(self, count: int, *, killed: bool) -> None:
        """`killed`: the answer to the first try is lost with the relay."""
        self.number += 1
        numbers = range(self.said, self.said + count)
        self.said += count
        for again in (True, False) if killed else (False,):
            for kind in Kind:
                told = {"logs": [record(n) for n in numbers]} if kind is Kind.LOGS else {
                    "events": [{"id": f"{n}", "message": f"{n}"} for n in numbers]
                }  # fmt: skip
                await self.spool.store(**told, desk="desk", number=self.number)  # type: ignore[arg-type]
            if again:
                await self.kill()
                self.start()


async def _lived(steps: list[tuple[str, object, bool]], poison: set[int], folder: Path) -> None:
    api = API(poison={f"{number}" for number in poison})
    desk = Desk(api, folder)
    desk.start()
    for what, value, flag in steps:
        if what == "say":
            await desk.say(value, killed=flag)  # type: ignore[arg-type]
        elif what == "fail":
            api.plan += value  # type: ignore[operator]
        elif what == "kill":
            await asyncio.sleep(value)  # type: ignore[arg-type]
            await desk.kill()
            desk.start()
        else:
            await asyncio.sleep(value)  # type: ignore[arg-type]
    await until(lambda: not any(level.records for level in desk.disk.waiting.values()))
    await asyncio.sleep(100)
    dead = {kind: [reason for of, reason, _ in desk.disk.dead() if of == kind] for kind in Kind}
    await desk.kill()
    wanted = [number for number in range(desk.said) if number not in poison]
    for kind in Kind:
        got = api.numbers(kind)
        alone_413 = desk.said - len(poison & set(range(desk.said))) - len(got)
        assert got == sorted(set(got)), kind
        assert set(got) <= set(wanted)
        assert alone_413 == sum(reason.startswith("413") for reason in dead[kind])
        assert len(dead[kind]) == desk.said - len(got)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=_STEPS, poison=st.sets(st.integers(0, 100), max_size=3))
def test_what_was_acknowledged_arrives_once_and_in_order(
    steps: list[tuple[str, object, bool]], poison: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loop = looptime.new_event_loop()
        try:
            loop.run_until_complete(_lived(steps, poison, Path(folder)))
        finally:
            loop.close()
