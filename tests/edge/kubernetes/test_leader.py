"""The Lease that daemons take turns by, over a fake Kubernetes and in virtual time."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from flowgroup.edge.fence import Fence, NotLeading
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.client import PODS, Client
from flowgroup.edge.kubernetes.leader import HELD_S, LEASE_S, LeaseSeat
from tests.fakes.kubernetes import FakeKubernetes, Way, status

pytestmark = pytest.mark.looptime
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_NAME = "fg-daemon"


def client(kubernetes: FakeKubernetes | httpx.AsyncBaseTransport, fence: Fence | None = None) -> Client:
    transport = kubernetes.transport if isinstance(kubernetes, FakeKubernetes) else kubernetes
    return Client(Access("https://k.test", _TLS, "fg", lambda: "", lambda: ""), "fg", fence=fence, transport=transport)


@dataclass
class Daemon:
    """One that wants to lead, and when it did: `led` has beginnings and ends by the loop's clock."""

    way: Way
    name: str
    fence: Fence = field(default_factory=Fence)
    led: list[float] = field(default_factory=list)
    looks: int = 0

    def __post_init__(self) -> None:
        self.fence.close()  # as the seat does, which is made later

    async def run(self) -> None:
        seat = LeaseSeat(client(self.way), _NAME, self.fence, me=self.name)
        while True:
            await seat.take(self._looked)
            async with seat.kept() as lost:
                self.led.append(now())
                try:
                    await lost.wait()
                finally:
                    self.led.append(now())

    def _looked(self) -> None:
        self.looks += 1


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Pair:
    kubernetes: FakeKubernetes
    first: Daemon
    second: Daemon
    tasks: "dict[str, asyncio.Task[None]]"
    both: list[float]

    async def end(self, daemon: Daemon) -> None:
        """As SIGTERM does."""
        self.tasks[daemon.name].cancel()
        await asyncio.wait((self.tasks[daemon.name],))

    def kill(self, daemon: Daemon) -> None:
        """As kill -9 does: what it says on its way out reaches nobody."""
        daemon.way.is_cut = True
        self.tasks[daemon.name].cancel()

    async def leads(self, daemon: Daemon, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not daemon.fence.is_open:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Two daemons, of which the first leads. Both fences are looked at all the time: they are never open together."""
    kubernetes = FakeKubernetes()
    first, second = (Daemon(Way(kubernetes), name) for name in ("first", "second"))
    both: list[float] = []

    async def watch() -> None:
        while True:
            if first.fence.is_open and second.fence.is_open:
                both.append(now())
            await asyncio.sleep(0.1)

    tasks = {"first": asyncio.create_task(first.run()), "watch": asyncio.create_task(watch())}
    await asyncio.sleep(LEASE_S + 1.0)  # the first of all waits: the Lease may just have been deleted
    tasks["second"] = asyncio.create_task(second.run())
    await asyncio.sleep(3.0)
    assert (first.fence.is_open, second.fence.is_open) == (True, False)
    try:
        yield Pair(kubernetes, first, second, tasks, both)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
    assert both == []


async def test_one_leads_for_as_long_as_it_renews_and_the_other_only_looks() -> None:
    async with pair() as at:
        await asyncio.sleep(20)
        assert (at.first.fence.is_open, at.second.led) == (True, [])
        assert at.second.looks > 15
        (lease,) = [found for (kind, _), found in at.kubernetes.objects.items() if kind == "leases"]
        assert lease["spec"]["holderIdentity"] == "first"
        assert (lease["spec"]["leaseTransitions"], lease["spec"]["leaseDurationSeconds"]) == (1, LEASE_S)
        assert at.kubernetes.calls("create", "leases") == 1


async def test_one_that_is_ended_gives_its_place_back_and_the_other_has_it_within_two_seconds() -> None:
    async with pair() as at:
        await at.end(at.first)
        await at.leads(at.second, 2.0)


async def test_a_killed_one_is_followed_within_twelve_seconds() -> None:
    async with pair() as at:
        at.kill(at.first)
        at.first.fence.close()  # its process is gone
        killed_at = now()
        await at.leads(at.second, LEASE_S + 2.0)
        assert now() - killed_at > LEASE_S - 3.0, "nobody may take a place that its holder may still believe to have"


async def test_one_that_cannot_renew_stops_to_act_before_the_other_begins_and_stands_by_afterwards() -> None:
    async with pair() as at:
        at.first.way.is_cut = True
        cut_at = now()
        await at.leads(at.second, 15.0)
        assert at.first.led[1] - cut_at <= HELD_S
        assert at.second.led[0] - at.first.led[1] >= LEASE_S - HELD_S - 0.1
        at.first.way.is_cut = False
        await asyncio.sleep(20)
        assert (len(at.first.led), at.second.fence.is_open) == (2, True)
        await at.end(at.second)
        await at.leads(at.first, 2.0)


class _Crumb(Fence):
    """Its end is nearer than the clock can tell apart; `asked`: how often somebody looked."""

    asked = 0

    @property
    def left_s(self) -> float:
        self.asked += 1
        assert self.asked < 1000, "asked without a rest"
        return 3e-14 if super().left_s else 0.0


async def test_one_that_cannot_renew_rests_however_near_its_end_is() -> None:
    way, fence = Way(FakeKubernetes()), _Crumb()
    way.is_cut = True
    async with LeaseSeat(client(way), _NAME, fence, me="first").kept() as lost:
        fence.open()
        await asyncio.sleep(5.0)
        assert fence.asked > 10
        assert not lost.is_set()
        fence.close()
        async with asyncio.timeout(5.0):
            await lost.wait()


async def test_an_outage_for_both_ends_with_one_leader() -> None:
    async with pair() as at:
        at.first.way.is_cut = at.second.way.is_cut = True
        await asyncio.sleep(40)
        assert not at.first.fence.is_open and not at.second.fence.is_open
        at.first.way.is_cut = at.second.way.is_cut = False
        await asyncio.sleep(LEASE_S + 5)
        assert at.first.fence.is_open != at.second.fence.is_open


async def test_short_outages_and_lost_answers_change_no_leader() -> None:
    async with pair() as at:
        for trouble in ("is_cut", "is_deaf"):
            for _ in range(5):
                setattr(at.first.way, trouble, True)
                await asyncio.sleep(4.0)
                setattr(at.first.way, trouble, False)
                await asyncio.sleep(6.0)
        assert len(at.first.led) == 1
        at.kubernetes.fail["update", "leases"] = [status(503, "busy"), status(409, "modified"), status(429, "slow")]
        await asyncio.sleep(10.0)
        assert (len(at.first.led), at.second.led) == (1, [])


async def test_a_lease_that_was_deleted_is_made_again_by_its_holder() -> None:
    async with pair() as at:
        await asyncio.sleep(0.9)
        before = at.second.looks
        del at.kubernetes.objects["leases", _NAME]
        newcomer = Daemon(Way(at.kubernetes), "third")
        third = asyncio.create_task(newcomer.run())
        await asyncio.sleep(20.0)
        assert at.second.looks > before
        assert (len(at.first.led), at.second.led, newcomer.led) == (1, [], [])
        third.cancel()
        await asyncio.wait((third,))


async def test_an_answer_to_the_first_word_that_is_lost_leaves_the_place_ours() -> None:
    kubernetes = FakeKubernetes()
    one = Daemon(Way(kubernetes, is_deaf=True), "one")
    task = asyncio.create_task(one.run())
    await asyncio.sleep(3.0)
    assert kubernetes.names("leases") == []
    kubernetes.put("leases", {"metadata": {"name": _NAME}, "spec": {"holderIdentity": ""}})
    await asyncio.sleep(3.0)
    assert not one.fence.is_open
    assert kubernetes.objects["leases", _NAME]["spec"]["holderIdentity"] == "one"
    one.way.is_deaf = False
    await asyncio.sleep(1.5)
    assert one.fence.is_open
    task.cancel()
    await asyncio.wait((task,))


async def test_of_many_that_come_together_one_leads() -> None:
    kubernetes = FakeKubernetes()
    daemons = [Daemon(Way(kubernetes), f"daemon {number}") for number in range(10)]
    tasks = [asyncio.create_task(one.run()) for one in daemons]
    for _ in range(150):
        await asyncio.sleep(0.1)
        assert sum(one.fence.is_open for one in daemons) <= 1
    assert sum(len(one.led) for one in daemons) == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_without_the_right_to_it_the_role_is_named_and_it_is_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kubernetes = FakeKubernetes()
    for _ in range(5):
        kubernetes.forbid("get", "leases")
    one = Daemon(Way(kubernetes), "one")
    task = asyncio.create_task(one.run())
    await asyncio.sleep(LEASE_S + 8.0)
    assert "give its Role there the verb 'get' on 'leases'" in capsys.readouterr().out
    assert one.fence.is_open
    task.cancel()
    await asyncio.wait((task,))


async def test_a_closed_fence_lets_no_call_out() -> None:
    kubernetes, fence = FakeKubernetes(), Fence()
    fenced = client(kubernetes, fence)
    await fenced.listed(PODS, "")
    fence.open(now() + 5.0)
    await fenced.listed(PODS, "")
    await asyncio.sleep(5.0)
    with pytest.raises(NotLeading):
        await fenced.create(PODS, {"metadata": {"name": "x"}})
    assert kubernetes.names("pods") == []
    await fenced.aclose()
