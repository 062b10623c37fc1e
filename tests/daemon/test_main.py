"""The whole daemon over a fake API, a fake relay and drivers in this process, on real sockets and in real time."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.daemon.main import run
from flowgroup.edge.fence import Fence
from flowgroup.errors import Refused
from flowgroup.model.ids import FIRST_RELAY, RelayName
from flowgroup.model.orders import Exit, Order
from flowgroup.settings import DaemonSettings, DriverSettings, PrefectSettings, RelaySettings, Settings
from tests.fakes.backend import FakeBackend
from tests.fakes.prefect_api import FakePrefect
from tests.fakes.relay import FakeRelay


@dataclass
class Machine:
    """One machine: what outlives a daemon, and the daemon."""

    home: Path
    fake: FakePrefect = field(default_factory=FakePrefect)
    relay: FakeRelay = field(default_factory=FakeRelay)
    settings: dict[str, Any] = field(default_factory=dict)
    relays: tuple[RelayName, ...] = (FIRST_RELAY,)
    backend: FakeBackend | None = None
    ledger: list[str] = field(default_factory=list)
    slow: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def drivers(self) -> FakeBackend:
        assert self.backend is not None
        return self.backend

    async def engine(self, order: Order, running: Callable[[], None]) -> Exit:
        """A child: it says Running, does what its name says, and says how it ended."""
        self.ledger.append(order.run_id)
        self.fake.put_state(order.run_id, "RUNNING")
        running()
        if order.run_name == "slow":
            await self.slow.wait()
        if order.run_name == "segfault":
            return Exit(signal=11, reached_user_code=True, tail="boom")
        self.fake.put_state(order.run_id, "COMPLETED")
        return Exit(code=0, reached_user_code=True, reported=True)

    async def start(self) -> None:
        settings = Settings(
            PrefectSettings(api_url="http://127.0.0.1:9/api"),
            DaemonSettings(home=self.home, pool="pool", poll_interval_s=0.2, driver_lost_s=0.5, **self.settings),
            RelaySettings(),
            DriverSettings(),
        )

        def factory(_: Settings, folder: Path, __: Fence) -> FakeBackend:
            self.backend = self.backend or FakeBackend(
                folder / "daemon.sock", self.engine, relay_socket=self.home / "relay.sock"
            )
            self.backend.relays = self.relays
            return self.backend

        self.task = asyncio.create_task(run(settings, factory, transport=httpx.ASGITransport(self.fake)))
        ready = self.home / "pool" / "daemon.json"
        await self.until(lambda: ready.exists() or self.task.done())  # type: ignore[union-attr]
        if self.task.done():
            await self.task

    async def stop(self) -> None:
        assert self.task is not None
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await self.task

    async def kill(self) -> None:
        """As kill -9 would: nothing is said to anybody. The task is cancelled and nothing that it says is heard."""
        assert self.task is not None
        self.fake.fail(".", 503, times=1_000_000)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.fake.faults.clear()

    async def until(self, is_so: Callable[[], bool], timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not is_so():
                await asyncio.sleep(0.01)

    async def ends(self, run: str, state: str, timeout_s: float = 15.0) -> None:
        await self.until(lambda: self.fake.states(run)[-1] == state, timeout_s)


@asynccontextmanager
async def machine(tmp_path: Path, **settings: Any) -> AsyncIterator[Machine]:
    made = Machine(tmp_path, settings={"events": False, **settings})
    async with made.relay.serve(tmp_path / "relay.sock"):
        try:
            yield made
        finally:
            if made.task:
                made.task.cancel()
                await asyncio.gather(made.task, return_exceptions=True)
            if made.backend:
                await made.backend.aclose()


async def test_runs_run_on_one_cluster_and_the_daemon_leaves_in_peace(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        deployment = at.fake.add_deployment()
        runs = [at.fake.add_run(deployment) for _ in range(10)]
        for one in runs:
            await at.ends(one, "COMPLETED")
        assert sorted(at.ledger) == sorted(runs)
        assert len(at.drivers.made) == 1
        await at.until(lambda: at.relay.open == {})
        assert at.fake.count(r"set_state|GET /flow_runs/|flow_run_states") == 10  # the claims, and nothing else
        assert len(at.fake.workers) == 1
        port = json.loads((tmp_path / "pool" / "daemon.json").read_text())["health_port"]
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
            figures = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        assert 'flowgroup_runs_finished_total{outcome="reported"}' in figures
        assert 'flowgroup_stage_seconds_count{stage="placed"}' in figures
        await at.stop()
        assert at.fake.workers == set()
        assert not (tmp_path / "pool" / "daemon.json").exists()
        assert at.drivers.drivers[at.drivers.made[0]].is_alive


async def test_two_deployments_with_different_specs_have_a_cluster_each(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        specs = [at.fake.add_deployment(name=f"d{n}", job_variables={"worker_threads": n + 1}) for n in range(2)]
        runs = [at.fake.add_run(specs[number % 2]) for number in range(20)]
        for one in runs:
            await at.ends(one, "COMPLETED")
        assert len(at.drivers.made) == 2


async def test_a_child_that_dies_is_told_within_two_seconds(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        run = at.fake.add_run(at.fake.add_deployment(), name="segfault")
        await at.until(lambda: run in at.ledger)
        await at.ends(run, "CRASHED", timeout_s=2)
        assert "SIGSEGV" in at.fake.message(run)
        assert "boom" in at.fake.message(run)


async def test_a_running_run_is_cancelled_within_five_seconds_without_the_event_stream(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        run = at.fake.add_run(at.fake.add_deployment(), name="slow")
        await at.ends(run, "RUNNING")
        at.fake.put_state(run, "CANCELLING")
        await at.ends(run, "CANCELLED", timeout_s=5)


@pytest.mark.parametrize("is_home_lost", [False, True])
async def test_a_restart_changes_nothing_for_runs_under_way(tmp_path: Path, is_home_lost: bool) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        deployment = at.fake.add_deployment()
        runs = [at.fake.add_run(deployment, name="slow") for _ in range(5)]
        await at.until(lambda: len(at.ledger) == 5)
        before = {one: at.fake.states(one) for one in runs}
        await at.stop()
        assert {one: at.fake.states(one) for one in runs} == before
        assert len(at.relay.open) == 5
        if is_home_lost:
            (tmp_path / "pool" / "attempts.json").unlink()
        at.relay.levels.clear()
        await at.start()
        await asyncio.sleep(2)
        assert at.relay.levels
        assert {len(level) for level in at.relay.levels} == {5}
        assert {one: at.fake.states(one) for one in runs} == before
        assert len(at.relay.open) == 5
        at.slow.set()
        for one in runs:
            await at.ends(one, "COMPLETED")
        await at.until(lambda: at.relay.open == {})
        assert len(at.ledger) == 5
        assert len(at.drivers.made) == 1


async def test_a_daemon_that_was_killed_tells_afterwards_what_happened_meanwhile(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        deployment = at.fake.add_deployment()
        lost, crashed = (at.fake.add_run(deployment, name="slow") for _ in range(2))
        await at.until(lambda: len(at.ledger) == 2)
        await at.kill()
        (cluster,) = at.drivers.made
        driver = at.drivers.drivers[cluster]
        gone = next(attempt for attempt in driver.attempts.values() if attempt.run_id == crashed)
        driver.change(gone.model_copy(update={"phase": "ended", "exit": Exit(signal=9, reached_user_code=True)}))
        await at.start()
        await at.ends(crashed, "CRASHED")
        assert "SIGKILL" in at.fake.message(crashed)
        assert at.fake.states(lost)[-1] == "RUNNING"
        await at.drivers.kill(cluster, "the machine was short of memory")
        await at.ends(lost, "CRASHED")
        assert "short of memory" in at.fake.message(lost)
        assert len(at.ledger) == 2


async def test_a_run_that_was_claimed_and_never_sent_runs_after_a_restart(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        at.drivers.ready_after_s = 1000
        run = at.fake.add_run(at.fake.add_deployment())
        await at.ends(run, "PENDING")
        await at.until(lambda: bool(at.drivers.made))
        await at.kill()
        await at.drivers.kill(at.drivers.made[0], "it was killed too")
        at.drivers.ready_after_s = 0
        await at.start()
        await at.ends(run, "COMPLETED", timeout_s=30)
        assert at.ledger == [run]


async def test_a_stopped_daemon_gives_back_what_waits_for_its_cluster(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        at.drivers.ready_after_s = 1000
        run = at.fake.add_run(at.fake.add_deployment())
        await at.ends(run, "PENDING")
        await at.until(lambda: bool(at.drivers.made))
        await at.stop()
        assert at.fake.states(run) == ["SCHEDULED", "PENDING", "SCHEDULED"]
        assert at.fake.leases == {}


async def test_an_idle_cluster_goes_and_one_made_for_a_run_goes_at_once(tmp_path: Path) -> None:
    async with machine(tmp_path, idle_timeout_s=1.0) as at:
        await at.start()
        shared = at.fake.add_deployment("shared")
        own = at.fake.add_deployment("own", job_variables={"mode": "per-run", "idle_timeout_s": 1000})
        for one in [at.fake.add_run(shared), at.fake.add_run(own), at.fake.add_run(own)]:
            await at.ends(one, "COMPLETED")
        await at.until(lambda: len(at.drivers.deleted) == 3 and at.drivers.clusters == {})


async def test_exclusive_runs_follow_each_other_and_others_go_on(tmp_path: Path) -> None:
    async with machine(tmp_path, slots=4) as at:
        await at.start()
        alone = at.fake.add_deployment("alone", job_variables={"mode": "exclusive"})
        first = at.fake.add_run(alone, name="slow")
        await at.ends(first, "RUNNING")
        waiting = [at.fake.add_run(alone) for _ in range(8)]
        other = at.fake.add_run(at.fake.add_deployment("other"))
        await at.ends(other, "COMPLETED")
        assert {at.fake.states(one)[-1] for one in waiting} == {"SCHEDULED"}
        at.slow.set()
        for one in waiting:
            await at.ends(one, "COMPLETED")
        assert len(at.drivers.made) == 2


async def test_a_limit_of_one_flow_does_not_hold_up_another(tmp_path: Path) -> None:
    async with machine(tmp_path, slots=5) as at:
        await at.start()
        limited = at.fake.add_deployment("limited", concurrency_limit=1)
        for _ in range(20):
            at.fake.add_run(limited, name="slow")
        await at.until(lambda: bool(at.ledger))
        other = at.fake.add_run(at.fake.add_deployment("other"))
        await at.ends(other, "COMPLETED", timeout_s=5)
        assert len(at.ledger) == 2


async def test_bad_answers_and_outages_do_not_end_the_daemon(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        await at.start()
        for how in (500, 401, "html", "lost", 404, 422):
            at.fake.fail(".", how, times=5)
            await asyncio.sleep(0.3)
        assert at.task is not None
        assert not at.task.done()
        at.fake.faults.clear()
        run = at.fake.add_run(at.fake.add_deployment())
        await at.ends(run, "COMPLETED", timeout_s=40)


async def test_an_api_that_does_not_answer_at_start_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with machine(tmp_path) as at:
        at.fake.fail("POST /work_pools/", 503, times=4)
        await at.start()
        assert "PREFECT_API_URL=http://127.0.0.1:9/api" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "said"), [(401, "PREFECT_API_KEY"), ("html", "PREFECT_API_URL"), (302, "PREFECT_API_URL")]
)
async def test_what_somebody_must_change_is_refused_at_start(tmp_path: Path, how: int | str, said: str) -> None:
    async with machine(tmp_path) as at:
        at.fake.fail("POST /work_pools/", how, times=1000)
        with pytest.raises(Refused, match=said):
            await at.start()


async def test_a_second_daemon_on_the_same_pool_and_home_is_refused(tmp_path: Path) -> None:
    async with machine(tmp_path) as at, machine(tmp_path) as second:
        await at.start()
        (tmp_path / "pool" / "daemon.json").unlink()
        with pytest.raises(Refused, match="another daemon serves the pool 'pool'"):
            await second.start()


async def test_a_pool_of_another_type_is_refused_at_start(tmp_path: Path) -> None:
    async with machine(tmp_path) as at:
        at.fake.pools["pool"] = {"id": "x", "name": "pool", "type": "process", "base_job_template": {}}
        with pytest.raises(Refused, match="'process'"):
            await at.start()


async def test_a_home_that_is_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    async with machine(tmp_path) as at:
        at.home = deep
        with pytest.raises(Refused, match="FLOWGROUP_HOME"):
            await at.start()


async def test_a_folder_without_keys_is_refused_and_not_taken_as_no_policy(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    async with machine(tmp_path, public_keys=tmp_path / "keys") as at:
        with pytest.raises(Refused, match="no public key"):
            await at.start()


async def test_a_pool_that_was_deleted_is_said_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with machine(tmp_path, heartbeat_interval_s=0.2) as at:
        await at.start()
        await at.until(lambda: bool(at.fake.workers))
        before = at.fake.pools.pop("pool")["id"]
        await at.until(lambda: "pool" in at.fake.pools)
        assert at.fake.pools["pool"]["id"] != before
        assert "pool_gone" in capsys.readouterr().out
        run = at.fake.add_run(at.fake.add_deployment())
        await at.ends(run, "COMPLETED")


async def test_groups_are_shared_out_among_relays_and_a_cluster_keeps_its_own_when_there_are_fewer(
    tmp_path: Path,
) -> None:
    second = FakeRelay()
    async with second.serve(tmp_path / "second.sock"), machine(tmp_path) as at:
        at.relays = (FIRST_RELAY, RelayName(str(tmp_path / "second.sock")))
        await at.start()
        at.fake.flows |= {
            (flow := str(uuid.UUID(int=number))): {"id": flow, "name": f"etl {number}"} for number in range(8)
        }
        deployments = [at.fake.add_deployment(flow=f"etl {number}") for number in range(8)]
        runs = {at.fake.add_run(one, name="slow"): one for one in deployments}
        for run_id in runs:
            await at.ends(run_id, "RUNNING")
        there = {item["run_id"] for item in second.open.values()}
        assert there
        assert {item["run_id"] for item in at.relay.open.values()} == runs.keys() - there
        by_relay = {found.spec.flow_id: found.spec.relay for found in at.drivers.clusters.values()}
        assert set(by_relay.values()) == set(at.relays)

        await at.stop()
        at.relays = at.relays[:1]
        at.relay.levels.clear(), second.levels.clear()
        await at.start()
        moved = at.fake.add_run(runs[next(iter(there))], name="quick")
        await at.ends(moved, "COMPLETED")
        await at.until(lambda: bool(second.levels and at.relay.levels))
        assert {item["run_id"] for item in second.open.values()} == there  # those on it go on
        assert (
            len(at.drivers.made) == len(deployments) + 1
        )  # and the group has a new cluster, on a relay that is listed
        assert at.drivers.clusters[at.drivers.made[-1]].spec.relay == FIRST_RELAY
        at.slow.set()
        for run_id in runs:
            await at.ends(run_id, "COMPLETED")
        await at.until(lambda: not second.open and not at.relay.open)
        await at.stop()
