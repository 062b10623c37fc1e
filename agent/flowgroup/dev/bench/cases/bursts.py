"""Many runs at once: how fast they end, what they cost the API, and how far that is above the server's own cost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flowgroup.dev.bench import access, runs
from flowgroup.dev.bench.figures import Figure, at_least, at_most
from flowgroup.dev.bench.sides import Bench, Side

_QUIET_S = 2.0
_STATES = ("PENDING", "RUNNING", "COMPLETED")
_BURST_TIMEOUT_S = 240.0
_FLOOR = "floor"
_WALKERS = 10


def burst(bench: Bench, side: Side) -> Iterator[Figure]:
    """
    Many runs at once, and how often the side called the API meanwhile: its polls and heartbeats are in it.

    They are made while the pool is paused, and the clock starts when it is not any more: on SQLite the server refuses
    to make runs while it writes, and the burst would be as slow as they can be made.
    """
    count = side.size.burst
    runs.wait(bench.api, [runs.start(bench.api, side.deployments["empty"])])
    with _paused(bench, side.pool):
        asked = runs.make(bench.api, side.deployments["empty"], count)
        before = bench.log_size()
    began = time.time()
    runs.wait(bench.api, asked, _BURST_TIMEOUT_S)
    time.sleep(_QUIET_S)  # what is said about a run after its end
    calls = access.routes(bench.logged(before))
    at = [runs.moments(bench.api, run) for run in asked]
    rate = 60 * count / (max(one["Completed"] for one in at) - began)
    yield Figure("burst: runs a minute", "/min", [rate], (at_least(20, "ratio"),))
    a_run = {route: number / count for route, number in calls.items()}
    yield Figure("burst: HTTP calls a run", "", [calls.total() / count], (at_most(5),), parts=a_run)
    if side.is_ours:
        floor = 60 * count / _floor(bench, count)
        yield Figure("the server's own floor: runs a minute", "/min", [floor])
        yield Figure("burst: times the server's own floor", "", [floor / rate])


@contextmanager
def _paused(bench: Bench, pool: str) -> Iterator[None]:
    runs.patch(bench.api, f"/work_pools/{pool}", {"is_paused": True})
    try:
        yield
    finally:
        runs.patch(bench.api, f"/work_pools/{pool}", {"is_paused": False})


def _floor(bench: Bench, count: int) -> float:
    """Seconds for as many runs that nobody runs: taken through their states, nothing else."""
    pool = runs.post(bench.api, "/work_pools/", {"name": _FLOOR, "type": "process"})["name"]
    flow = runs.post(bench.api, "/flows/", {"name": _FLOOR})["id"]
    made = {"name": _FLOOR, "flow_id": flow, "work_pool_name": pool}
    deployment = runs.post(bench.api, "/deployments/", made)["id"]

    def walk(run: str) -> None:
        for state in _STATES:
            said = {"type": state, "name": state.capitalize()}
            runs.post(bench.api, f"/flow_runs/{run}/set_state", {"state": said})

    made_before = runs.make(bench.api, deployment, count)
    began = time.monotonic()
    runs.in_parallel(walk, made_before, width=_WALKERS)
    return time.monotonic() - began
