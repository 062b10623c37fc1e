"""What one more run under way costs, and what costs when there is none."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from flowgroup.dev import proc
from flowgroup.dev.bench import access, runs
from flowgroup.dev.bench.figures import Figure, at_most
from flowgroup.dev.bench.sides import Bench, Side
from flowgroup.driver.oskit import memory_bytes
from flowgroup.errors import Permanent

_MIB = 1024 * 1024
_SETTLED_S = 3.0
_IDLE_S = 20.0


def memory(bench: Bench, side: Side) -> Iterator[Figure]:
    """All that carries the runs of one flow, with some runs and with some more: shared pages are counted once."""
    size, end = side.size, bench.mind.folder / f"end-{side.name.replace(' ', '-')}"
    under_way: list[str] = []
    try:
        _add(bench, side, under_way, size.held, end)
        before = memory_bytes(_carriers(side, "sleeps"))
        _add(bench, side, under_way, size.more, end)
        more = memory_bytes(_carriers(side, "sleeps")) - before
    finally:
        end.touch()
    yield Figure("one more run: memory (PSS)", "MiB", [more / size.more / _MIB], (at_most(30),))
    runs.wait(bench.api, under_way)


def idle(bench: Bench, side: Side) -> Iterator[Figure]:
    """The daemon and the relay while there is no run; a warm cluster is there."""
    assert side.folder is not None
    daemon, relay = (announced_pid(side.folder / name) for name in ("daemon.json", "relay.json"))
    time.sleep(_SETTLED_S)
    before, logged, began = proc.usage(daemon), bench.log_size(), time.monotonic()
    time.sleep(_IDLE_S)
    after, took_s = proc.usage(daemon), time.monotonic() - began
    calls = {route: 60 * number / took_s for route, number in access.routes(bench.logged(logged)).items()}
    yield Figure("idle daemon: RSS", "MiB", [after.rss_bytes / _MIB], (at_most(80),))
    yield Figure("idle daemon: % of a core", "", [100 * (after.cpu_s - before.cpu_s) / took_s], (at_most(1),))
    yield Figure("idle daemon: API calls a minute", "", [sum(calls.values())], parts=calls)
    yield Figure("idle relay: RSS", "MiB", [proc.usage(relay).rss_bytes / _MIB], (at_most(80),))


def cluster_at(pool: Path, flow: str) -> dict[str, int]:
    """The processes of a flow's cluster below a pool's folder: their pids by role."""
    found = sorted(pool.glob(f"clusters/{flow}-*/cluster.json"))
    if not found:
        raise Permanent(f"there is no cluster of {flow}")
    processes = json.loads(found[0].read_text())["processes"]
    return {role: int(process["pid"]) for role, process in processes.items()}


def _add(bench: Bench, side: Side, under_way: list[str], count: int, end: Path) -> None:
    under_way += [runs.start(bench.api, side.deployments["sleeps"], until=str(end)) for _ in range(count)]
    runs.wait_running(bench.api, under_way)
    time.sleep(_SETTLED_S)


def _carriers(side: Side, flow: str) -> set[int]:
    if side.folder:
        return proc.tree(cluster_at(side.folder, flow)["driver"])
    assert side.worker
    return proc.tree(side.worker[0].pid)


def announced_pid(announced: Path) -> int:
    return int(json.loads(announced.read_text())["pid"])
