"""
Cancelled runs end, whatever they do: five hostile flows in two modes, all at once on one stack, while another run goes on.

Each is cancelled when it is where it will not listen, and judged by Prefect's state, by what is left of its processes, and
by what its neighbours on the same cluster do.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real

HARD_S, SOFT_S = 30.0, 5.0
HOSTILE = ("deaf", "endless_c", "brood", "blocked", "hung_task", "frozen_worker")
ON_DASK = {"hung_task", "frozen_worker"}


@dataclass
class Hostile:
    """A run that is where it will not listen. `ledger` has its process's pid first, then those of all that it started."""

    what: str
    mode: str
    run: str
    ledger: Path
    cluster: str = ""
    cancelled_s: float = float("inf")
    gone_s: float = float("inf")

    def pids(self) -> list[int]:
        return [int(pid) for pid in self.ledger.read_text().split()] if self.ledger.exists() else []

    def is_hostile(self) -> bool:
        return len(self.pids()) >= (5 if self.what == "brood" else 2)

    def left(self) -> list[int]:
        return [pid for pid in self.pids() if _lives(pid)]


@dataclass
class Scene:
    """All hostile runs, cancelled together; `neighbour` was under way on the shared cluster meanwhile."""

    at: Stack
    hostile: dict[tuple[str, str], Hostile]
    neighbour: Hostile


@pytest.fixture(scope="module")
def scene(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with stack(prefect_api, tmp_path_factory.mktemp("cancel"), "cancel") as at:
        deployed = _deployed(at)
        folder = tmp_path_factory.mktemp("ledgers")

        def start(what: str, mode: str) -> Hostile:
            deployment = deployed["per-run on dask" if what in ON_DASK and mode == "per-run" else mode]
            ledger = folder / f"{what}-{mode}"
            return Hostile(what, mode, at.start(deployment, what=what, ledger=str(ledger)), ledger)

        neighbour = start("neighbour", "shared")
        wait_for(lambda: len(neighbour.pids()) > 1, "the neighbour is at work", 60)
        hostile = [start(what, mode) for what in HOSTILE for mode in ("shared", "per-run")]
        with ThreadPoolExecutor(len(hostile)) as judging:
            list(judging.map(lambda one: _wait_until_hostile(at, one), hostile))
            list(judging.map(lambda one: _cancel(at, one), hostile))
        yield Scene(at, {(one.what, one.mode): one for one in hostile}, neighbour)


def _deployed(at: Stack) -> dict[str, str]:
    wanted = {
        "shared": ("--workers", "3", "--worker-threads", "1"),
        "per-run": ("--mode", "per-run"),
        "per-run on dask": ("--mode", "per-run", "--workers", "1"),
    }
    with ThreadPoolExecutor(len(wanted)) as deploying:
        made = deploying.map(lambda one: at.deploy("hostile.py:hostile", one[0], *one[1]), wanted.items())
        return dict(zip(wanted, made, strict=True))


def _wait_until_hostile(at: Stack, one: Hostile) -> None:
    wait_for(one.is_hostile, f"{one.what} in {one.mode} is where it will not listen: {one.pids()}", 90)
    one.cluster = at.cluster_of(one.run)


def _cancel(at: Stack, one: Hostile) -> None:
    """And see for how long it takes. What takes longer than it may is judged by the tests, each its own."""
    began = time.monotonic()
    at.cancel(one.run)
    while (took_s := time.monotonic() - began) < 2 * HARD_S:
        if one.cancelled_s > took_s and at.run(one.run)["state_type"] == "CANCELLED":
            one.cancelled_s = took_s
        if one.gone_s > took_s and not one.left():
            one.gone_s = took_s
        if max(one.cancelled_s, one.gone_s) <= took_s:
            return
        time.sleep(0.2)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("mode", ["shared", "per-run"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_run_ends_in_time_with_all_that_it_started(scene: Scene, what: str, mode: str) -> None:
    one = scene.hostile[what, mode]
    said = f"{what} in {mode}: Cancelled after {one.cancelled_s:.1f} s, processes gone after {one.gone_s:.1f} s"
    print(said)
    assert one.cancelled_s <= HARD_S, said
    assert one.gone_s <= HARD_S, f"{said}; {one.left()} live"
    assert scene.at.run(one.run)["state_name"] == "Cancelled", scene.at.run(one.run)["state"]
    ended = wait_for(lambda: [e for e in scene.at.events("run_ended") if e["run"] == one.run], f"{what} is put down")
    assert len(ended) == 1


@pytest.mark.parametrize("what", HOSTILE)
def test_the_cluster_of_a_run_that_had_one_alone_goes_with_it(scene: Scene, what: str) -> None:
    cluster = scene.hostile[what, "per-run"].cluster
    wait_for(lambda: cluster not in scene.at.clusters(), f"{cluster} is gone", HARD_S)


def test_the_others_on_the_cluster_go_on(scene: Scene) -> None:
    one = scene.neighbour
    before = one.pids()[-1]
    began = time.monotonic()
    wait_for(lambda: one.pids()[-1] >= before + 40, f"the neighbour does tasks again; it had done {before}", HARD_S)
    took_s = time.monotonic() - began
    Path(f"{one.ledger}.done").touch()
    assert scene.at.wait(one.run)["state_name"] == "Completed", f"after {took_s:.1f} s: {scene.at.message(one.run)}"
