"""Runs that the server has given up end here too, and it hears when they have. Time is virtual."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from flowgroup.daemon.cancel import Cancels
from flowgroup.daemon.teardown import tear_down
from flowgroup.edge.channel import Teardown
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.model.ids import AttemptId, ClusterName, RunId

pytestmark = pytest.mark.looptime
RUN = RunId("run")


@dataclass
class FakeChannel:
    """The channel, and the attempts that are open at the relay. `said`: what the server was told, and when."""

    messages: "asyncio.Queue[Teardown]" = field(default_factory=asyncio.Queue)
    said: list[tuple[str, str, float]] = field(default_factory=list)
    open: dict[AttemptId, OpenAttempt] = field(default_factory=dict)

    async def teardowns(self) -> AsyncIterator[Teardown]:
        while True:
            yield await self.messages.get()

    async def renew(self, teardown: Teardown) -> None:
        self.said.append(("renew", teardown.token, asyncio.get_running_loop().time()))

    async def ack(self, teardown: Teardown) -> None:
        self.said.append(("ack", teardown.token, asyncio.get_running_loop().time()))

    def listed(self) -> list[OpenAttempt]:
        return list(self.open.values())

    async def close(self, attempt: AttemptId) -> None:
        del self.open[attempt]


@pytest.fixture
def channel() -> FakeChannel:
    made = FakeChannel()
    for run, attempt in ((RUN, "its"), (RunId("other"), "another's")):
        made.open[AttemptId(attempt)] = OpenAttempt(AttemptId(attempt), run, "hash", None, ClusterName("c"))
    return made


async def test_what_is_under_way_is_asked_to_end_and_done_when_it_has(channel: FakeChannel) -> None:
    cancels = Cancels()
    tearing = asyncio.create_task(tear_down(channel, cancels, channel))
    with cancels.listening(RUN) as asked, cancels.listening(RunId("other")) as other:
        channel.messages.put_nowait(Teardown(RUN, "id", "one"))
        await asyncio.sleep(11)
        assert asked.cancel.is_set()
        assert not other.cancel.is_set()
        channel.messages.put_nowait(Teardown(RUN, "id", "two"))  # the lease was over: it comes again
        await asyncio.sleep(11)
        assert [said[:2] for said in channel.said] == [("renew", "one"), ("renew", "two")]
    await asyncio.sleep(0.5)
    assert channel.said[-1][:2] == ("ack", "two")
    assert list(channel.open) == ["another's"]
    tearing.cancel()


async def test_what_nothing_carries_is_done_at_once(channel: FakeChannel) -> None:
    tearing = asyncio.create_task(tear_down(channel, Cancels(), channel))
    channel.messages.put_nowait(Teardown(RUN, "id", "one"))
    await asyncio.sleep(0.1)
    assert [said[:2] for said in channel.said] == [("ack", "one")]
    assert list(channel.open) == ["another's"]
    tearing.cancel()


async def test_one_that_takes_long_holds_up_no_other(channel: FakeChannel) -> None:
    cancels = Cancels()
    tearing = asyncio.create_task(tear_down(channel, cancels, channel))
    with cancels.listening(RUN):
        channel.messages.put_nowait(Teardown(RUN, "id", "one"))
        channel.messages.put_nowait(Teardown(RunId("nobody's"), "id", "two"))
        await asyncio.sleep(1)
        assert [said[:2] for said in channel.said] == [("ack", "two")]
    tearing.cancel()
