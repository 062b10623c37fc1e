"""What the way through desk and relay costs."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from flowgroup.dev import proc
from flowgroup.dev.bench import runs
from flowgroup.dev.bench.cases.costs import announced_pid
from flowgroup.dev.bench.cases.dask import mapped_s
from flowgroup.dev.bench.figures import Figure, at_most
from flowgroup.dev.bench.sides import Bench, Side
from flowgroup.errors import Permanent

_MIB = 1024 * 1024
_CALLS_EACH = 15
_LINES_PER_S, _P99 = 2000, 98
_LINE_TIMEOUT_S, _LOOK_S = 60.0, 0.5


def relayed(bench: Bench, side: Side) -> Iterator[Figure]:
    """
    There is no way past the relay to compare with, so a burst and a map are judged by its share of all cores: without it
    they could be faster by that much at most, where they are bound by the processor.
    """
    assert side.folder is not None
    size, relay = side.size, announced_pid(side.folder / "relay.json")
    added = _measured(bench, side, "asks", direct=bench.url, count=_CALLS_EACH * size.singles)
    yield Figure("a call through desk and relay: added", "ms", added, (at_most(3),))
    yield _share("burst", relay, lambda: runs.wait(bench.api, _made(bench, side)))
    yield _share(f"{size.tasks} tasks", relay, lambda: mapped_s(bench, side.deployments["maps"], count=size.tasks))
    socket = str(side.folder / "relay.sock")
    took = _measured(bench, side, "floods", relay=socket, seconds=size.spoken_s, lines_per_s=_LINES_PER_S)
    p99 = statistics.quantiles(took, n=100)[_P99]
    yield Figure(f"{_LINES_PER_S} lines/s: acknowledged, p99", "ms", [p99], (at_most(50),))
    yield Figure("relay after those: RSS", "MiB", [proc.usage(relay).rss_bytes / _MIB], (at_most(80),))


def _made(bench: Bench, side: Side) -> list[str]:
    return runs.make(bench.api, side.deployments["empty"], side.size.burst)


def _share(what: str, relay: int, work: Callable[[], object]) -> Figure:
    before, began = proc.usage(relay).cpu_s, time.monotonic()
    work()
    used_s, took_s = proc.usage(relay).cpu_s - before, time.monotonic() - began
    share = 100 * used_s / (took_s * (os.cpu_count() or 1))
    return Figure(f"{what}: relay's % of all cores", "", [share], (at_most(10),))


def _measured(bench: Bench, side: Side, deployment: str, **parameters: Any) -> list[float]:
    """What a run of this flow says it has measured."""
    run = runs.start(bench.api, side.deployments[deployment], **parameters)
    runs.wait(bench.api, [run])
    deadline = time.monotonic() + _LINE_TIMEOUT_S
    while time.monotonic() < deadline:
        for entry in runs.lines(bench.api, [run], newest=True, limit=20):
            if entry["message"].startswith("["):
                return [float(value) for value in json.loads(entry["message"])]
        time.sleep(_LOOK_S)
    raise Permanent(f"the run of `{deployment}` did not say within {_LINE_TIMEOUT_S:.0f} s what it has measured")
