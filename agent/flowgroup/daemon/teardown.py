"""
Runs that Prefect's server has given up: it wants to hear that nothing of them is left.

In: what the worker channel asks for. Out: the run is asked to end, as if it had been cancelled here, its attempt is closed,
and then the message is done. The run's state is not touched: the server has set it. What is not under way here is nobody's:
then the attempt alone is closed, and what a driver may still bring back is found by asking (`cancel.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from flowgroup import log
from flowgroup.edge.channel import Teardown
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.model.ids import AttemptId, RunId

_LOOK_S = 0.2
_RENEW_S = 10.0


class Channel(Protocol):
    def teardowns(self) -> AsyncIterator[Teardown]: ...
    async def renew(self, teardown: Teardown) -> None: ...
    async def ack(self, teardown: Teardown) -> None: ...


class Cancels(Protocol):
    def ask(self, run_id: RunId) -> bool: ...
    @property
    def under_way(self) -> list[RunId]: ...


class Attempts(Protocol):
    def listed(self) -> Sequence[OpenAttempt]: ...
    async def close(self, attempt: AttemptId) -> None: ...


async def tear_down(channel: Channel, cancels: Cancels, attempts: Attempts) -> None:
    """Without end. A run that takes long to end holds up no other."""
    latest: dict[RunId, Teardown] = {}

    async def carry(run: RunId) -> None:
        try:
            await _ended(run, cancels, lambda: channel.renew(latest[run]))
            for one in attempts.listed():
                if one.run_id == run:
                    await attempts.close(one.attempt)
        finally:
            done = latest.pop(run)
        await channel.ack(done)

    async with asyncio.TaskGroup() as tearing:
        async for teardown in channel.teardowns():
            is_new = teardown.run not in latest
            latest[teardown.run] = teardown  # one that comes again has another token
            if is_new:
                tearing.create_task(carry(teardown.run), name=f"tear down {teardown.run}")


async def _ended(run: RunId, cancels: Cancels, renew: Callable[[], Awaitable[None]]) -> None:
    """Ask the run to end, and wait until it is not under way here."""
    clock = asyncio.get_running_loop().time
    renewed_at = clock()
    is_ours = cancels.ask(run)
    log.get().warning("run_given_up_by_the_server", run=run, under_way_here=is_ours)
    while run in cancels.under_way:
        if clock() - renewed_at > _RENEW_S:
            renewed_at = clock()
            await renew()
        await asyncio.sleep(_LOOK_S)
