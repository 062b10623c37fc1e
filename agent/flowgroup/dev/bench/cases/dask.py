"""Small tasks on Dask workers: ours and prefect-dask's own task runner, on the same two workers."""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowgroup.dev import proc
from flowgroup.dev.bench import runs
from flowgroup.dev.bench.cases.costs import cluster_at
from flowgroup.dev.bench.figures import Figure, at_least
from flowgroup.dev.bench.sides import Bench, Side
from flowgroup.driver.oskit import memory_bytes
from flowgroup.errors import Permanent

_MIB = 1024 * 1024
_SAID = re.compile(r"mapped (\d+) in ([\d.]+) s")
_TIMEOUT_S = 180.0
_LINE_TIMEOUT_S = 15.0
_LOOK_S = 0.5
_SAMPLE_S = 1.0


def tasks(bench: Bench, side: Side) -> Iterator[Figure]:
    """The stock runner has fewer to do: a rate is a rate, and its thousand takes minutes."""
    mapped_s(bench, side.deployments["maps"], count=20)
    count, stock_count = side.size.tasks, side.size.stock_tasks
    rate = count / mapped_s(bench, side.deployments["maps"], count=count)
    stock = stock_count / mapped_s(bench, side.deployments["maps"], count=stock_count, stock=True)
    yield Figure(f"{count} tasks mapped: a second", "/s", [rate])
    yield Figure(f"stock DaskTaskRunner, {stock_count}: a second", "/s", [stock])
    yield Figure("tasks: times the stock runner's rate", "", [rate / stock], (at_least(5),))


def storm(bench: Bench, side: Side) -> Iterator[Figure]:
    """Ten times as many, and how much memory each process takes at its worst meanwhile."""
    mapped_s(bench, side.deployments["maps"], count=20)
    with _peaks(side) as peaks:
        took_s = mapped_s(bench, side.deployments["maps"], count=side.size.storm)
    yield Figure(f"{side.size.storm} tasks mapped: in", "s", [took_s])
    parts = {f"MiB, {role}": used / _MIB for role, used in peaks.items()}
    yield Figure("tasks: memory at its worst (PSS)", "MiB", [sum(parts.values())], parts=parts)


def mapped_s(bench: Bench, deployment: str, **parameters: Any) -> float:
    """Run `maps`; the seconds that it says."""
    run = runs.start(bench.api, deployment, **parameters)
    try:
        runs.wait(bench.api, [run], _TIMEOUT_S)
    except Permanent:
        runs.cancel(bench.api, run)  # what comes next is to be measured without it
        raise
    deadline = time.monotonic() + _LINE_TIMEOUT_S
    while time.monotonic() < deadline:
        for entry in runs.lines(bench.api, [run], newest=True):
            if said := _SAID.fullmatch(entry["message"]):
                return float(said[2])
        time.sleep(_LOOK_S)
    raise Permanent(f"the run of `maps` did not say within {_LINE_TIMEOUT_S:.0f} s how long it took")


@contextmanager
def _peaks(side: Side) -> Iterator[dict[str, int]]:
    """The most bytes that each process of the cluster of `maps` was seen to use during the block, by role."""
    peaks: dict[str, int] = defaultdict(int)
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            for role, used in _used(side).items():
                peaks[role] = max(peaks[role], used)

    sampling = threading.Thread(target=sample, name="peaks")
    sampling.start()
    try:
        yield peaks
    finally:
        over.set()
        sampling.join()


def _used(side: Side) -> dict[str, int]:
    """A driver's own process is told apart from what it forked: its zygote and the run's child."""
    used = {}
    assert side.folder is not None
    for role, pid in cluster_at(side.folder, "maps").items():
        if role == "driver":
            used["driver"] = memory_bytes({pid})
            used["child"] = memory_bytes(proc.tree(pid) - {pid})
        else:
            used[role] = memory_bytes(proc.tree(pid))
    return used
