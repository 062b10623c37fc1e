"""`python -m flowgroup.dev.soak [MINUTES]`: writes `docs/soak.md`, and ends with 1 when something grows or a run is missed."""

import argparse
import os
import platform
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from flowgroup.dev import proc, service
from flowgroup.dev.bench.cases.costs import announced_pid, cluster_at
from flowgroup.dev.bench.sides import Bench, measuring, say
from flowgroup.dev.minder import end_pool, sweep
from flowgroup.dev.server import free_port
from flowgroup.dev.soak.load import Load
from flowgroup.dev.soak.slopes import KINDS, Growth, Sample, growing, grown
from flowgroup.edge.processes import end_now, running
from flowgroup.errors import FlowgroupError

_PREFIX, _POOL, _PAGE = "flowgroup-soak-", "soak", Path("docs/soak.md")
_WARM_S, _LOADED_S, _QUIET_S, _GRACE_S = 240.0, 60.0, 12.0, 10.0
_BURST = 40
_IDLE_S = 90
Series = dict[str, list[Sample]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flowgroup.dev.soak")
    parser.add_argument("minutes", nargs="?", type=float, default=30.0, help="after four to get warm (%(default)s)")
    span_s = 60 * parser.parse_args(argv).minutes
    service.ends_like_ctrl_c()
    sweep(_PREFIX)
    with measuring(_PREFIX) as bench:
        series, load, troubles = _soaked(bench, span_s)
        troubles += load.judge()
    seen = {name: grown(samples) for name, samples in series.items()}
    troubles += [f"{what} of the {name} grow" for name, found in seen.items() for what in growing(found)]
    counts = {flow: len(asked) for flow, asked in load.asked.items()}
    _PAGE.write_text(page(seen, counts, span_s, troubles))
    say(f"{sum(counts.values())} runs; {'; '.join(troubles) or 'nothing grows'}; {_PAGE}")
    return int(bool(troubles))


def _soaked(bench: Bench, span_s: float) -> tuple[Series, Load, list[str]]:
    ports = {"daemon": free_port(), "relay": free_port()}
    env = {
        "FLOWGROUP_HEALTH_PORT": str(ports["daemon"]),
        "FLOWGROUP_RELAY_METRICS_PORT": str(ports["relay"]),
        "FLOWGROUP_IDLE_TIMEOUT_S": str(_IDLE_S),
    }
    folder = bench.mind.folder / _POOL
    daemon = service.start_daemon(bench.mind, bench.url, pool=_POOL, log=bench.mind.folder / "daemon.log", env=env)
    process = running(daemon.pid)
    try:
        load = Load(bench, _POOL)
        first = {name: announced_pid(folder / f"{name}.json") for name in ports}
        series: Series = {}
        _get_warm(load)
        began = time.monotonic()
        while (gone_s := time.monotonic() - began) < span_s:
            say(f"{gone_s / 60:.0f} min, {sum(map(len, load.asked.values()))} runs")
            _loaded(load, _LOADED_S)
            load.rest()
            time.sleep(_QUIET_S)
            _look(folder, ports, time.monotonic() - began, series)
        load.end()
        ended = [
            f"the {name} has ended" for name, pid in first.items() if announced_pid(folder / f"{name}.json") != pid
        ]
        return series, load, ended
    finally:
        end_now([process], grace_s=_GRACE_S)
        end_pool(folder)


def _get_warm(load: Load) -> None:
    """Three bursts too, so that threads and connections are as many as they will be."""
    for _ in range(3):
        load.burst(_BURST)
        _loaded(load, _WARM_S / 3)


def _loaded(load: Load, span_s: float) -> None:
    until = time.monotonic() + span_s
    while time.monotonic() < until:
        load.step()
        time.sleep(0.05)


def _look(folder: Path, ports: Mapping[str, int], at_s: float, into: Series) -> None:
    """While nothing is under way but a run that sleeps: what is there then has stayed."""
    with suppress(OSError):  # one is not there now; what has ended is said in the end
        for name, pid in _processes(folder, ports).items():
            into.setdefault(name, []).append(_sample(pid, at_s, ports.get(name)))


def _processes(folder: Path, ports: Mapping[str, int]) -> dict[str, int]:
    """The daemon, the relay, and the drivers of the groups that keep their cluster."""
    found = {name: announced_pid(folder / f"{name}.json") for name in ports}
    for flow in ("speaks", "maps"):
        with suppress(FlowgroupError):
            found[f"driver of {flow}"] = cluster_at(folder, flow)["driver"]
    return found


def _sample(pid: int, at_s: float, port: int | None) -> Sample:
    place = Path(f"/proc/{pid}")
    tasks = _tasks(port) if port else None
    used = proc.usage(pid)
    return Sample(
        at_s, used.rss_bytes, len(list((place / "fd").iterdir())), len(list((place / "task").iterdir())), tasks
    )


def _tasks(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("flowgroup_tasks "))))


def page(
    seen: Mapping[str, Mapping[str, Growth]], counts: Mapping[str, int], span_s: float, troubles: Sequence[str]
) -> str:
    """The whole file."""
    rows = [
        f"| {name} | {kind.name} | {one.first:.1f} | {one.last:.1f} | {one.slope_per_h:+.2f} | {one.grown:+.2f} |"
        for name, found in seen.items()
        for kind in KINDS
        if (one := found.get(kind.name))
    ]
    asked = ", ".join(f"{count} of `{flow}`" for flow, count in counts.items())
    parts = [
        "# Soak, measured",
        f"Written by `make soak` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, Prefect {version('prefect')} with "
        f"SQLite, Python {platform.python_version()}. {span_s / 60:.0f} minutes after {_WARM_S / 60:.0f} to get warm, with "
        f"three bursts of {_BURST} runs. Runs: {asked}. `speaks` says ten lines and has ten tasks, `maps` has fifty on a Dask "
        "worker, `sleeps` is cancelled while it runs, and `empty` gets a new generation, and with it a new cluster, every "
        f"three minutes; idle clusters go after {_IDLE_S} s.",
        f"After each minute of it nothing is asked for until all has ended but what sleeps; {_QUIET_S:.0f} s later there is a "
        "look. So it is seen what stays, and not what is just under way.",
        "*First* and *last* are the medians of the first and of the last quarter. The slope is the median of all between "
        "two looks. To be reached: memory grows by less than 1 % over the span; files, threads and asyncio tasks by less than "
        "one; nothing ends; every run has the end that it was to have.",
        "| process | what | first | last | slope an hour | over the span |\n|---|---|---:|---:|---:|---:|\n"
        + "\n".join(rows),
        "## What is missed\n\n" + ("\n".join(f"- {one}." for one in troubles) or "Nothing, this time."),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    service.as_command(main)
