"""
The daemon against all that can happen to it, in any order, with time in the test's hand. After every step the invariants
hold, judged by the children's own ledger and by the API's history; at the end, when nothing goes wrong any more, every run
has ended and nothing is left.

`FLOWGROUP_TEST_STORIES=500` tells so many stories.
"""

import contextlib
import os
import random
from collections.abc import Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flowgroup.daemon.points import POINTS
from flowgroup.model.orders import Exit
from tests.fakes.clock import virtual
from tests.fakes.prefect_api import TERMINAL
from tests.fakes.scene import Scene, mortal

_STORIES = int(os.environ.get("FLOWGROUP_TEST_STORIES", "25"))
_SLOTS = 4
_CALLS = [
    "get_scheduled",
    "set_state",
    "GET /flow_runs/",
    "flow_runs/filter",
    "flow_run_states",
    "GET /deployments",
    ".",
]
_FAULTS: list[int | str] = [500, 503, 401, "html", "lost", "late"]
_PEACE_S = 400.0  # a call may be late for 80 s, and the reconcile waits for the drivers of a lost home for 60


class Truth(RuleBasedStateMachine):
    """`ends`: the only states in which a run may end."""

    @initialize(seed=st.integers(0, 2**32), boot_s=st.sampled_from([0.0, 1.0, 20.0]))
    def begin(self, seed: int, boot_s: float) -> None:
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(mortal())
        folder = self.stack.enter_context(TemporaryDirectory(prefix="fg-"))
        self.runner = self.stack.enter_context(virtual(seed))
        self.ends: dict[str, set[str]] = {}
        self.run(self._begin(Path(folder), random.Random(seed), boot_s))

    async def _begin(self, folder: Path, chance: random.Random, boot_s: float) -> None:
        self.at = Scene(folder, chance, settings={"slots": _SLOTS, "idle_timeout_s": 5.0})
        self.at.backend.ready_after_s = boot_s
        self.deployments = [
            self.at.fake.add_deployment(flow="one"),
            self.at.fake.add_deployment(flow="limited", concurrency_limit=1),
            self.at.fake.add_deployment(flow="own", job_variables={"mode": "per-run"}),
            self.at.fake.add_deployment(flow="alone", job_variables={"mode": "exclusive"}),
        ]
        self.at.start()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(what)

    @rule(span_s=st.sampled_from([0.05, 0.5, 3.0, 40.0]))
    def time_passes(self, span_s: float) -> None:
        self.run(self.at.wait(span_s))

    @rule(which=st.integers(0, 3), in_s=st.sampled_from([0.0, 1.0, 15.0]), takes_s=st.sampled_from([0.1, 2.0, 50.0]))
    def a_run_is_made(self, which: int, in_s: float, takes_s: float) -> None:
        self.run(self._made(which, in_s, takes_s, None))

    @rule(which=st.integers(0, 3), takes_s=st.sampled_from([0.1, 5.0]))
    def a_run_is_made_that_will_segfault(self, which: int, takes_s: float) -> None:
        self.run(self._made(which, 0.0, takes_s, Exit(signal=11, reached_user_code=True)))

    async def _made(self, which: int, in_s: float, takes_s: float, dies_by: Exit | None) -> None:
        run = self.at.fake.add_run(self.deployments[which], in_s=in_s)
        self.at.takes_s[run] = takes_s
        self.ends[run] = {"COMPLETED"}
        if dies_by:
            self.at.dies_by[run], self.ends[run] = dies_by, {"CRASHED"}

    @precondition(lambda self: self.open())
    @rule(data=st.data())
    def a_run_is_cancelled(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.open())))
        state = "CANCELLED" if self.at.fake.runs[run]["state"]["type"] == "SCHEDULED" else "CANCELLING"
        self.run(self._put(run, state))
        self.ends[run] = self.ends[run] | {"CANCELLED"}

    async def _put(self, run: str, state: str) -> None:
        self.at.fake.put_state(run, state)

    @precondition(lambda self: self.at.life)
    @rule()
    def the_daemon_is_killed(self) -> None:
        self.run(self._die())

    async def _die(self) -> None:
        assert self.at.life
        self.at.life.die()

    @precondition(lambda self: self.at.life)
    @rule(point=st.sampled_from(POINTS), passes=st.integers(1, 2))
    def the_daemon_will_die(self, point: Any, passes: int) -> None:
        assert self.at.life
        self.at.life.dies_at, self.at.life.passes = point, passes

    @precondition(lambda self: self.at.life is None)
    @rule(is_home_lost=st.booleans())
    def another_daemon_starts(self, is_home_lost: bool) -> None:
        self.run(self._start(is_home_lost))

    async def _start(self, is_home_lost: bool) -> None:
        self.at.start(is_home_lost=is_home_lost)

    @rule(call=st.sampled_from(_CALLS), how=st.sampled_from(_FAULTS), times=st.integers(1, 4))
    def the_api_fails(self, call: str, how: int | str, times: int) -> None:
        self.at.fake.fail(call, how, times)

    @precondition(lambda self: self.at.life)
    @rule(
        what=st.sampled_from(["relay", "create", "delete", "look", "why_never"]),
        when=st.sampled_from(["before", "after"]),
    )
    def a_call_of_the_daemon_fails(self, what: str, when: str) -> None:
        assert self.at.life
        self.at.life.reach.fails[what] = when

    @rule()
    def the_relay_is_started_again(self) -> None:
        self.at.relay.restart()

    @rule(is_away=st.booleans())
    def the_relay_goes_or_comes(self, is_away: bool) -> None:
        self.at.relay.is_away = is_away

    @precondition(lambda self: self.at.backend.clusters)
    @rule(data=st.data())
    def a_driver_is_killed(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.at.backend.clusters)))
        for attempt in self.at.backend.drivers[name].attempts.values():
            if attempt.phase != "ended":
                self.ends[attempt.run_id] = self.ends[attempt.run_id] | {"CRASHED"}
        for run in self.open():  # an order may be on its way
            self.ends[run] = self.ends[run] | {"CRASHED"}
        self.run(self.at.backend.kill(name))

    @precondition(lambda self: self.at.backend.drivers)
    @rule()
    def a_driver_loses_its_line(self) -> None:
        self.run(self._hang_up())

    async def _hang_up(self) -> None:
        for driver in self.at.backend.drivers.values():
            driver.hang_up()

    @precondition(lambda self: self.at.life and self.at.life.parts)
    @rule()
    def an_event_comes_twice(self) -> None:
        self.run(self._events())

    async def _events(self) -> None:
        assert self.at.life
        assert self.at.life.parts
        for _ in range(2):
            self.at.life.parts.bells.poll.ring()
            for run in self.open():
                if self.at.fake.runs[run]["state"]["type"] == "CANCELLING":
                    self.at.life.parts.cancels.ask(run)

    def open(self) -> list[str]:
        return [run for run, told in self.at.fake.runs.items() if told["state"]["type"] not in TERMINAL]

    @invariant()
    def no_run_runs_twice(self) -> None:
        if hasattr(self, "at"):
            assert all(times == 1 for times in self.at.begins().values()), self.say()

    @invariant()
    def an_end_stands(self) -> None:
        for run, told in self.at.fake.history.items() if hasattr(self, "at") else ():
            ended = [state["type"] for state in told if state["type"] in TERMINAL]
            assert len(ended) <= 1, self.say()
            assert not ended or told[-1]["type"] == ended[0], self.say()
            assert set(ended) <= self.ends[run], self.say()

    @invariant()
    def no_more_are_under_way_than_there_are_slots(self) -> None:
        if hasattr(self, "at") and self.at.life and self.at.life.parts and len(self.at.lives) == 1:
            assert len(self.at.life.parts.slots.held) <= _SLOTS, self.say()

    @invariant()
    def the_daemon_goes_on(self) -> None:
        life = self.at.life if hasattr(self, "at") else None
        if life and life.task and life.task.done():
            life.task.result()
            raise AssertionError("the daemon ended")

    def teardown(self) -> None:
        if not hasattr(self, "at"):
            return
        try:
            self.run(self._peace())
        finally:
            self.run(self.at.aclose())
            self.stack.close()

    async def _peace(self) -> None:
        """Nothing goes wrong any more: then every run ends as it may, and nothing is left."""
        at = self.at
        at.fake.faults.clear()
        at.relay.is_away = False
        if at.life:
            at.life.dies_at = None
            at.life.reach.fails.clear()
        else:
            at.start()
        over = await at.until(at.is_over, _PEACE_S + 60.0 * len(self.ends), step_s=2.0)
        assert over, self.say()
        self.no_run_runs_twice()
        self.an_end_stands()
        for run, told in at.fake.runs.items():
            assert at.begins()[run] == 1 or told["state"]["type"] != "COMPLETED", self.say()
        assert await at.until(lambda: not at.kept() and not at.backend.clusters, 180.0, step_s=2.0), self.say()

    def say(self) -> str:
        return self.at.tale()


def test_whatever_happens_each_run_ends_once_and_truly() -> None:
    told = settings(
        max_examples=_STORIES,
        stateful_step_count=25,
        deadline=None,
        derandomize="FLOWGROUP_TEST_STORIES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Truth, settings=told)
    print(f"figure: {_STORIES} stories of at most 25 steps")
