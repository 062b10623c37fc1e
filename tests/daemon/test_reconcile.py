"""What a new daemon makes of what it finds: at the API, in drivers and at the relay. Time is virtual."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from flowgroup.daemon.again import Again
from flowgroup.daemon.reconcile import Reconcile
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.tell import Teller
from flowgroup.daemon.wake import Wake
from flowgroup.edge.prefect import prefect
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.model.ids import AttemptId, ClusterName, RunId, new_attempt
from flowgroup.model.orders import Attempt
from flowgroup.model.runs import SentRun
from flowgroup.settings import PrefectSettings
from tests.fakes.prefect_api import FakePrefect

pytestmark = pytest.mark.looptime
CLUSTER = ClusterName("c")


@dataclass
class Found:
    """Clusters, drivers and attempts as the new daemon finds them."""

    fake: FakePrefect
    slots: Slots
    wake: Wake = field(default_factory=Wake)
    dead: dict[ClusterName, str] = field(default_factory=dict)
    clusters: list[ClusterName] = field(default_factory=list)
    attempts: list[OpenAttempt] = field(default_factory=list)
    has: list[Attempt] = field(default_factory=list)
    is_back: bool = True
    is_whole: bool = True
    seals: dict[str, OpenAttempt] = field(default_factory=dict)
    resumed: list[SentRun] = field(default_factory=list)
    leased: list[tuple[ClusterName, RunId]] = field(default_factory=list)

    def names(self) -> list[ClusterName]:
        return self.clusters

    async def look(self, name: ClusterName) -> str | None:
        return self.dead.get(name)

    @contextmanager
    def lease(self, name: ClusterName, run_id: RunId) -> Iterator[None]:
        self.leased.append((name, run_id))
        yield
        self.leased.remove((name, run_id))

    def carried(self) -> list[tuple[ClusterName, Attempt]]:
        return [(CLUSTER, attempt) for attempt in self.has] if self.is_back else []

    def has_reported(self, cluster: ClusterName) -> bool:
        return self.is_back

    def sealed(self) -> list[tuple[ClusterName, str]]:
        return [(CLUSTER, seal) for seal in self.seals] if self.is_back else []

    def unsealed(self, shown: Iterable[tuple[ClusterName, str]]) -> list[OpenAttempt]:
        return [self.seals[seal] for _, seal in shown]

    def found(self, attempts: Iterable[OpenAttempt]) -> None:
        self.is_whole = True
        self.attempts += attempts

    def listed(self) -> list[OpenAttempt]:
        return list(self.attempts)

    async def close(self, attempt: AttemptId) -> None:
        self.attempts = [one for one in self.attempts if one.attempt != attempt]

    async def resume(self, sent: SentRun) -> None:
        assert (sent.cluster, sent.id) in self.leased, "its cluster was free to go while the API was asked for the run"
        with self.slots.hold(sent.id, even_if_full=True):
            self.resumed.append(sent)
            await asyncio.sleep(50)
        self.has = [attempt for attempt in self.has if attempt.attempt != sent.attempt]

    def run(
        self, state: str, *, owner: str = "us", name: str | None = None, **fields: object
    ) -> tuple[RunId, AttemptId]:
        run = RunId(self.fake.add_run(self.fake.add_deployment(), **fields))
        attempt = new_attempt(owner, uuid.uuid4())
        self.fake.put_state(run, "PENDING", transition_id=attempt, deployment_concurrency_lease_id="lease")
        if state != "PENDING":
            self.fake.put_state(run, state, name)
        return run, attempt


@asynccontextmanager
async def found() -> AsyncIterator[Found]:
    yield Found(FakePrefect(), Slots(10))


async def reconciled(at: Found, for_s: float) -> None:
    settings = PrefectSettings(api_url="http://prefect.test/api")
    async with prefect(settings, "pool", transport=httpx.ASGITransport(at.fake)) as api:
        await api.ensure_pool()
        reconcile = Reconcile(api, at, at, at.slots, Teller(api, Again(api, 3)), at, at.resume, at.wake, "us")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(for_s):
                await reconcile.run()


@pytest.mark.parametrize(
    ("state", "then", "said"),
    [
        ("PENDING", "SCHEDULED", "restarted before the run started"),
        ("RUNNING", "CRASHED", "process is gone"),
        ("CANCELLING", "CANCELLED", "nothing was running it"),
    ],
)
async def test_a_run_of_ours_that_nothing_carries_gets_its_truth(state: str, then: str, said: str) -> None:
    async with found() as at:
        run, _ = at.run(state)
        await reconciled(at, 20)
        assert at.fake.states(run)[-1] == then
        assert said in at.fake.message(run)


async def test_a_run_that_lost_its_pool_and_its_process_gets_its_truth_too() -> None:
    """Its queue was deleted, and the machine restarted: the pool shows it no more, but it is open at the relay."""
    async with found() as at:
        run, attempt = at.run("RUNNING", work_pool_name=None)
        other, _ = at.run("RUNNING", work_pool_name=None)
        at.attempts = [OpenAttempt(attempt, run, "hash", None, CLUSTER)]
        at.dead[CLUSTER] = "it is not there"
        at.is_back = False
        await reconciled(at, 40)
        assert at.fake.states(run)[-1] == "CRASHED"
        assert at.fake.states(other)[-1] == "RUNNING"
        assert at.attempts == []


async def test_a_deleted_run_leaves_no_attempt_open() -> None:
    async with found() as at:
        run, attempt = at.run("RUNNING")
        at.attempts = [OpenAttempt(attempt, run, "hash", None, CLUSTER)]
        del at.fake.runs[run], at.fake.history[run]
        await reconciled(at, 40)
        assert at.attempts == []


@pytest.mark.parametrize("late", ["RUNNING", "PENDING"])
async def test_an_end_over_which_a_late_state_was_carried_out_is_said_again(late: str) -> None:
    async with found() as at:
        run, attempt = at.run("COMPLETED", name="Cached")
        at.fake.runs[run]["state"] |= {"data": {"type": "unpersisted"}, "message": "all well"}
        at.fake.put_state(run, late, transition_id=attempt)
        await reconciled(at, 20)
        told = at.fake.runs[run]["state"]
        assert (told["type"], told["name"], told["message"]) == ("COMPLETED", "Cached", "all well")
        assert told["data"] == {"type": "unpersisted"}


async def test_a_run_that_was_started_again_after_its_end_has_not_ended() -> None:
    async with found() as at:
        run, _ = at.run("FAILED")
        at.fake.put_state(run, "SCHEDULED")
        at.fake.put_state(run, "PENDING", transition_id=new_attempt("us", uuid.uuid4()))
        at.fake.put_state(run, "RUNNING")
        await reconciled(at, 20)
        assert at.fake.states(run)[-1] == "CRASHED"


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "CANCELLING"])
async def test_runs_of_other_agents_are_never_touched(state: str) -> None:
    async with found() as at:
        run, _ = at.run(state, owner="another daemon on this pool")
        elsewhere, _ = at.run(state, work_pool_name="other pool")
        unknown = at.fake.add_run(at.fake.add_deployment())
        at.fake.put_state(unknown, "RUNNING")
        await reconciled(at, 100)
        assert {at.fake.states(one)[-1] for one in (run, elsewhere)} == {state}
        assert at.fake.states(unknown)[-1] == "RUNNING"


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "CANCELLING"])
async def test_a_run_that_a_journey_holds_is_left_to_it(state: str) -> None:
    async with found() as at:
        run, _ = at.run(state)
        with at.slots.hold(run):
            await reconciled(at, 100)
        assert at.fake.states(run)[-1] == state


@pytest.mark.parametrize("phase", ["starting", "running", "ended"])
async def test_a_run_that_a_driver_has_gets_its_journey_back_once(phase: str) -> None:
    async with found() as at:
        at.clusters = [CLUSTER]
        run, attempt = at.run("PENDING" if phase == "starting" else "RUNNING")
        at.has = [Attempt.model_validate({"run_id": run, "attempt": attempt, "phase": phase})]
        at.attempts = [OpenAttempt(attempt, run, "hash", None, CLUSTER)]
        await reconciled(at, 40)
        lease = "lease" if phase == "starting" else None
        assert at.resumed == [SentRun(run, attempt, CLUSTER, lease)]
        assert at.fake.states(run)[-1] != "CRASHED"
        assert len(at.attempts) == 1


async def test_drivers_have_some_seconds_to_come_back_before_anything_is_judged() -> None:
    async with found() as at:
        at.clusters, at.is_back = [CLUSTER], False
        run, attempt = at.run("RUNNING")
        at.has = [Attempt(run_id=run, attempt=attempt, phase="running")]

        async def come_back() -> None:
            await asyncio.sleep(12)
            at.is_back = True
            at.wake.ring()

        coming = asyncio.create_task(come_back())
        await reconciled(at, 40)
        await coming
        assert at.fake.states(run)[-1] == "RUNNING"
        assert len(at.resumed) == 1


async def test_a_run_on_a_cluster_that_lives_but_is_silent_is_not_judged() -> None:
    async with found() as at:
        at.clusters, at.is_back = [CLUSTER], False
        run, attempt = at.run("RUNNING")
        at.attempts = [OpenAttempt(attempt, run, "hash", None, CLUSTER)]
        await reconciled(at, 200)
        assert at.fake.states(run)[-1] == "RUNNING"
        assert len(at.attempts) == 1
        at.dead[CLUSTER] = "killed"
        await reconciled(at, 20)
        assert at.fake.states(run)[-1] == "CRASHED"
        assert at.attempts == []


async def test_dead_clusters_are_not_waited_for() -> None:
    async with found() as at:
        at.clusters, at.is_back, at.dead = [CLUSTER], False, {CLUSTER: "killed"}
        run, _ = at.run("RUNNING")
        await reconciled(at, 3)
        assert at.fake.states(run)[-1] == "CRASHED"


async def test_a_run_that_sleeps_until_a_retry_in_a_process_that_is_gone_is_found() -> None:
    async with found() as at:
        run, _ = at.run("SCHEDULED", name="AwaitingRetry", empirical_policy={"retry_type": "in_process"})
        offered, _ = at.run("SCHEDULED", name="AwaitingRetry")
        await reconciled(at, 20)
        assert at.fake.states(run)[-1] == "CRASHED"
        assert at.fake.states(offered)[-1] == "SCHEDULED"


async def test_attempts_that_nothing_carries_are_closed_at_the_relay() -> None:
    async with found() as at:
        at.attempts = [OpenAttempt(AttemptId("old"), RunId("old run"), "hash", None, CLUSTER)]
        at.dead = {CLUSTER: "it is not there"}
        await reconciled(at, 20)
        assert at.attempts == []


@pytest.mark.parametrize("how", [503, 401, "html", "lost"])
async def test_an_outage_only_puts_it_off(how: int | str) -> None:
    async with found() as at:
        run, _ = at.run("RUNNING")
        at.fake.fail("POST /flow_runs/filter", how, times=3)
        await reconciled(at, 200)
        assert at.fake.states(run)[-1] == "CRASHED"


async def test_what_a_former_daemon_had_open_is_remembered_from_what_drivers_show() -> None:
    async with found() as at:
        run, attempt = at.run("RUNNING")
        over = new_attempt("us", uuid.uuid4())
        at.is_whole, at.clusters = False, [CLUSTER]
        at.has = [Attempt(run_id=run, attempt=attempt, phase="running")]
        at.seals = {name: OpenAttempt(name, run, name, None, CLUSTER) for name in (attempt, over)}
        await reconciled(at, 20)
        assert [one.attempt for one in at.attempts] == [attempt]
        assert [sent.attempt for sent in at.resumed] == [attempt]


async def test_a_driver_that_is_late_is_waited_for_longer_when_its_runs_hang_on_it() -> None:
    async with found() as at:
        run, attempt = at.run("RUNNING")
        at.is_whole, at.is_back, at.clusters = False, False, [CLUSTER]
        at.has = [Attempt(run_id=run, attempt=attempt, phase="running")]
        at.seals = {attempt: OpenAttempt(attempt, run, attempt, None, CLUSTER)}

        async def comes_back() -> None:
            await asyncio.sleep(40)
            assert not at.is_whole
            at.is_back = True

        coming = asyncio.create_task(comes_back())
        await reconciled(at, 50)
        await coming
        assert [one.attempt for one in at.attempts] == [attempt]


async def test_a_driver_that_never_comes_back_is_not_waited_for_for_ever() -> None:
    async with found() as at:
        at.is_whole, at.is_back, at.clusters = False, False, [CLUSTER]
        await reconciled(at, 70)
        assert at.is_whole


async def test_an_api_that_does_not_say_whose_a_run_is_ends_none() -> None:
    async with found() as at:
        run, attempt = at.run("RUNNING")
        at.is_whole, at.clusters = False, [CLUSTER]
        at.has = [Attempt(run_id=run, attempt=attempt, phase="running")]
        at.seals = {attempt: OpenAttempt(attempt, run, attempt, None, CLUSTER)}
        at.fake.fail("flow_run_states", 503, times=1_000_000)
        await reconciled(at, 5)
        assert [one.attempt for one in at.attempts] == [attempt]


@pytest.mark.parametrize(
    ("name", "details", "then"),
    [
        ("Paused", {"pause_reschedule": False}, "CRASHED"),
        ("Paused", {"pause_reschedule": True}, "PAUSED"),
        ("Suspended", {"pause_reschedule": True}, "PAUSED"),
    ],
)
async def test_a_run_that_paused_in_a_process_that_is_gone_is_found(
    name: str, details: dict[str, bool], then: str
) -> None:
    async with found() as at:
        run, _ = at.run("RUNNING")
        at.fake.put_state(run, "PAUSED", name, **details)
        await reconciled(at, 20)
        assert at.fake.states(run)[-1] == then
