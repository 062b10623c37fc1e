"""Caps of runs, clusters, pods, CPU and GPUs: never passed, and clusters that nobody needs give way."""

import asyncio
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgroup.daemon.caps import Caps, Limits, group_of
from flowgroup.daemon.clusters import Clusters
from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.reap import reap
from flowgroup.daemon.wake import Wake
from flowgroup.errors import Refused
from flowgroup.model.clusters import Takes
from flowgroup.model.ids import ClusterName, FlowId, RunId
from flowgroup.model.spec import ClusterSpec
from tests.fakes.boots import Boots

ONE, TWO, THREE = RunId("one"), RunId("two"), RunId("three")


def spec(flow: str = "f", workers: int = 0, **fields: object) -> ClusterSpec:
    said = {"flow_id": FlowId(flow), "flow_name": flow, "isolation": "pool", "workers": workers, **fields}
    return ClusterSpec.model_validate(said)


def takes(spec: ClusterSpec) -> Takes:
    return Takes(pods=2 + spec.groups[0].most, cpu=0.5 + spec.groups[0].most, gpu=float(spec.groups[0].most % 3))


@dataclass
class Made:
    """Clusters that exist, and those of them that nobody needs."""

    there: dict[ClusterName, ClusterSpec] = field(default_factory=dict)
    idle: list[ClusterName] = field(default_factory=list)
    given_up: list[ClusterName] = field(default_factory=list)

    def specs(self) -> dict[ClusterName, ClusterSpec]:
        return dict(self.there)

    def unneeded(self) -> list[ClusterName]:
        return list(self.idle)

    def give_up(self, name: ClusterName) -> None:
        self.given_up.append(name)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(pool={"clusters": 1}), "pool.clusters"),
        (Limits(pool={"pods": 9}), "pool.pods"),
        (Limits(pool={"cpu": 6.9}), "pool.cpu"),
        (Limits(pool={"gpu": 2}), "pool.gpu"),
        (Limits(group={"runs": 1}), "group.runs"),
        (Limits(group={"clusters": 1}), "group.clusters"),
        (Limits(group={"pods": 9}), "group.pods"),
    ],
)
def test_a_run_that_a_cap_holds_waits_and_it_is_known_for_what(limits: Limits, why: str) -> None:
    caps = Caps(limits, Made(), takes)
    with caps.room(spec(workers=4), ONE) as first:
        assert first
        with caps.room(spec(workers=2), TWO) as second:
            assert not second
        assert caps.still_waits(TWO) == why
    assert caps.still_waits(TWO) is None
    with caps.room(spec(workers=2), TWO) as second:
        assert second


def test_another_group_has_caps_of_its_own() -> None:
    caps = Caps(Limits(group={"clusters": 1, "runs": 1}), Made(), takes)
    with caps.room(spec("f"), ONE) as first, caps.room(spec("g"), TWO) as second, caps.room(spec("f"), THREE) as third:
        assert (first, second, third) == (True, True, False)


def test_runs_on_one_cluster_take_it_once() -> None:
    caps = Caps(Limits(pool={"clusters": 1, "pods": 6}), Made(), takes)
    with caps.room(spec(workers=4), ONE) as first, caps.room(spec(workers=4), TWO) as second:
        assert first
        assert second


def test_a_group_that_follows_its_work_counts_with_what_it_may_grow_to() -> None:
    caps = Caps(Limits(pool={"pods": 12}), Made(), takes)
    with caps.room(spec(workers_max=10), ONE) as first, caps.room(spec("g"), TWO) as second:
        assert first
        assert not second


def test_a_cluster_that_is_larger_than_a_cap_is_refused_with_the_settings_name() -> None:
    caps = Caps(Limits(pool={"pods": 5}, group={"cpu": 2.5}), Made(), takes)
    with pytest.raises(Refused, match=r"'f' would take 6 pods .* pool's cap, 5 \(FLOWGROUP_CAP_PODS\)"):
        caps.check(spec(workers=4))
    with pytest.raises(Refused, match=r"3\.5 cpu .* group's cap, 2\.5 \(FLOWGROUP_GROUP_CAP_CPU\)"):
        caps.check(spec(workers=3))
    caps.check(spec(workers=2))


def test_a_run_of_a_former_daemon_counts_though_it_passes_a_cap() -> None:
    there = spec()
    caps = Caps(Limits(group={"runs": 1}), Made({there.name: there}), takes)
    with caps.resumed(there.name, ONE), caps.resumed(there.name, TWO), caps.room(there, THREE) as third:
        assert not third


def test_nothing_is_made_ahead_while_a_run_that_is_due_waits() -> None:
    caps = Caps(Limits(pool={"pods": 8}), Made(), takes)
    with caps.room(spec("f", 2), ONE):
        with caps.room(spec("g", 4), TWO) as second:
            assert not second
        with caps.ahead(spec("h"), THREE) as third:
            assert not third
        caps.keep_waiting(set())
        with caps.ahead(spec("h"), THREE) as third:
            assert third


def test_idle_clusters_are_given_up_the_longest_idle_first_and_no_more_than_it_takes() -> None:
    flows = [spec(name) for name in "abcd"]
    made = Made({one.name: one for one in flows}, [one.name for one in flows])
    caps = Caps(Limits(pool={"pods": 9}), made, takes)
    for _ in range(3):  # asked again while they are being deleted: that is enough
        with caps.room(spec("new", 1), ONE) as has_room:
            assert not has_room
        assert made.given_up == [one.name for one in flows[:1]]
    with caps.room(spec("another", 4), TWO):
        assert made.given_up == [one.name for one in flows[:3]]


def test_nothing_is_given_up_for_a_run_that_would_not_have_room_even_then() -> None:
    idle, busy = spec("idle"), spec("busy", 6)
    made = Made({one.name: one for one in (idle, busy)}, [idle.name])
    with Caps(Limits(pool={"pods": 10}), made, takes).room(spec("new", 4), ONE) as has_room:
        assert not has_room
    assert made.given_up == []


@pytest.mark.looptime
async def test_a_run_that_waits_gets_the_room_of_an_idle_cluster_within_seconds() -> None:
    drivers, reaper, poll = Drivers(), Wake(), Wake()
    backend = Boots(drivers)
    clusters = Clusters(backend, drivers, idle_timeout_s=300, on_free=reaper.ring, on_turn=poll.ring)
    caps = Caps(Limits(pool={"clusters": 1}), clusters, backend.takes)
    reaping = asyncio.create_task(reap(clusters, reaper, lambda: None))
    with caps.room(spec("f"), ONE), clusters.lease(spec("f").name, ONE, 300.0):
        await clusters.ready(spec("f"))
    with caps.room(spec("g"), TWO) as has_room:
        assert not has_room
    began = asyncio.get_running_loop().time()
    assert await poll.wait(30.0)
    assert asyncio.get_running_loop().time() - began <= 3.0
    assert caps.still_waits(TWO) is None
    with caps.room(spec("g"), TWO) as has_room:
        assert has_room
    reaping.cancel()
    await asyncio.gather(reaping, return_exceptions=True)


LIMITS = Limits(pool={"clusters": 4, "pods": 14, "cpu": 9.0, "gpu": 3}, group={"runs": 3, "clusters": 2, "pods": 9})
STEPS = st.lists(
    st.tuples(st.sampled_from(["arrive", "arrive", "ahead", "end", "make", "restart", "delete"]), st.integers(0, 59)),
    max_size=80,
)


@dataclass
class Ledger:
    """Apart from what `Caps` keeps: clusters that were made and not deleted, and runs that were let in and have not ended."""

    made: Made = field(default_factory=Made)
    needs: dict[RunId, ClusterSpec] = field(default_factory=dict)
    under_way: set[RunId] = field(default_factory=set)
    held: dict[RunId, ExitStack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.caps = Caps(LIMITS, self.made, takes)

    def arrive(self, run: RunId, wanted: ClusterSpec) -> None:
        if self._entered(run, wanted, self.caps.room(wanted, run)):
            self.under_way.add(run)

    def ahead(self, run: RunId, wanted: ClusterSpec) -> None:
        self._entered(run, wanted, self.caps.ahead(wanted, run))

    def _entered(self, run: RunId, wanted: ClusterSpec, room: AbstractContextManager[bool]) -> bool:
        stack = ExitStack()
        if not stack.enter_context(room):
            return False
        self.held[run], self.needs[run] = stack, wanted
        return True

    def end(self, *_: object) -> None:
        for run in list(self.held)[:1]:
            self.held.pop(run).close()
            del self.needs[run]
            self.under_way.discard(run)

    def make(self, *_: object) -> None:
        self.made.there |= {one.name: one for one in self.needs.values()}

    def delete(self, *_: object) -> None:
        for name in self.made.idle:
            self.made.there.pop(name, None)

    def restart(self, *_: object) -> None:
        """Runs whose clusters are there go on, and nothing else is known."""
        self.caps = Caps(LIMITS, self.made, takes)
        self.under_way = {run for run in self.under_way if self.needs[run].name in self.made.there}
        self.needs = {run: self.needs[run] for run in self.under_way}
        self.held = {run: ExitStack() for run in self.under_way}
        for run, stack in self.held.items():
            stack.enter_context(self.caps.resumed(self.needs[run].name, run))


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_no_cap_is_ever_passed_whatever_happens(steps: list[tuple[str, int]]) -> None:
    at = Ledger()
    specs = [spec(flow, workers) for flow in "abc" for workers in (0, 1, 2, 4)]
    for number, (what, which) in enumerate(steps):
        needed = {one.name for one in at.needs.values()}
        at.made.idle = [name for name in at.made.there if name not in needed]
        getattr(at, what)(RunId(f"{what}-{number}"), specs[which % len(specs)])
        _within(list(at.made.there.values()), Counter(group_of(at.needs[run]) for run in at.under_way))


def _within(there: list[ClusterSpec], runs: Counter[tuple[str, str]]) -> None:
    _below(LIMITS.pool, there)
    for group in {group_of(one) for one in there}:
        _below(LIMITS.group, [one for one in there if group_of(one) == group])
    assert all(count <= LIMITS.group["runs"] for count in runs.values())


def _below(limits: object, there: list[ClusterSpec]) -> None:
    assert isinstance(limits, dict)
    for kind in limits.keys() - {"runs"}:
        assert sum(takes(one).told()[kind] for one in there) <= limits[kind], kind
