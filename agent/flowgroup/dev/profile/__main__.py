"""`python -m flowgroup.dev.profile`: single warm runs, then a run of many tasks; writes `docs/profile`."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.cases.costs import cluster_at
from flowgroup.dev.bench.cases.dask import mapped_s
from flowgroup.dev.bench.sides import Asked, Bench, deployed, measuring, other_daemon, say
from flowgroup.dev.minder import sweep
from flowgroup.dev.profile.report import Picture, Profile, write
from flowgroup.dev.profile.spy import largest, spied
from flowgroup.dev.profile.stages import Moments, noted
from flowgroup.dev.service import as_command, ends_like_ctrl_c
from flowgroup.errors import Permanent

_PREFIX = "flowgroup-profile-"
_TIMED, _SAMPLED = "timed", "sampled"
_NOTES_S = 0.5
_ENDS_S = 30.0
_MAIN = "MainThread"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flowgroup.dev.profile")
    parser.add_argument("--runs", type=int, default=30, help="single runs, both for the stages and for the picture")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks in the run of many")
    parser.add_argument("--into", type=Path, default=Path("docs/profile"), help="where to write")
    args = parser.parse_args(argv)
    ends_like_ctrl_c()
    sweep(_PREFIX)
    with measuring(_PREFIX) as bench:
        say(f"{args.runs} single runs, to see their stages")
        timed = _timed(bench, args.runs)
        say(f"{args.runs} single runs and {args.tasks} tasks, with a sampler in each run's process")
        profile = _sampled(bench, args.runs, args.tasks, timed)
    write(profile, args.into)
    say(f"written to {args.into}")
    return 0


def _timed(bench: Bench, count: int) -> list[Moments]:
    """Without a sampler, which would cost time."""
    with other_daemon(bench, _TIMED, {"FLOWGROUP_LOG_LEVEL": "debug"}):
        asked = _singles(bench, _TIMED, count)
        return [_moments(bench, run) for run in asked]


def _sampled(bench: Bench, count: int, tasks: int, timed: list[Moments]) -> Profile:
    folder = bench.mind.folder / "stacks"
    with other_daemon(bench, _SAMPLED, {"FLOWGROUP_DRIVER_PROFILE": str(folder)}):
        _singles(bench, _SAMPLED, count)
        single = _stacks(folder, count + 1)
        deployment = deployed(bench, _SAMPLED, [Asked("maps", "flows.py:maps", {"workers": 2})])["maps"]
        mapped_s(bench, deployment, count=20)
        _stacks(folder, 1)
        worker = largest(cluster_at(bench.mind.folder / _SAMPLED, "maps")["worker-0"])
        with spied(worker, bench.mind.folder / "worker.raw") as seen:
            took_s = mapped_s(bench, deployment, count=tasks)
        child = _stacks(folder, 1)
    return Profile(
        timed,
        tasks,
        took_s,
        [
            Picture("run.svg", "The process of one warm run, from its fork to its end", single, count + 1, _MAIN),
            Picture("task-child.svg", "The run's process while its tasks run, a task", child, tasks),
            Picture(
                "task-worker.svg", "A Dask worker while it runs tasks, a task", seen.lines, tasks // 2, "", seen.trouble
            ),
        ],
    )


def _stacks(folder: Path, count: int) -> list[str]:
    """What so many processes left there when they ended; it is gone then. Raises Permanent when they did not."""
    deadline = time.monotonic() + _ENDS_S
    while len(left := list(folder.glob("*.stacks"))) < count:
        if time.monotonic() > deadline:
            raise Permanent(f"only {len(left)} of {count} runs left a profile")
        time.sleep(_NOTES_S)
    lines = [line for path in left for line in path.read_text().splitlines()]
    for path in left:
        path.unlink()
    return lines


def _singles(bench: Bench, pool: str, count: int) -> list[str]:
    """Runs one at a time on a cluster that a run before them has made."""
    deployment = deployed(bench, pool, [Asked("empty", "empty.py:empty")])["empty"]
    asked = []
    for _ in range(count + 1):
        asked.append(runs.start(bench.api, deployment))
        runs.wait(bench.api, asked[-1:])
        time.sleep(_NOTES_S)  # the next run is a lone one, too
    return asked[1:]


def _moments(bench: Bench, run: str) -> Moments:
    daemon = (bench.mind.folder / f"daemon-{_TIMED}.log").read_text().splitlines()
    drivers = (bench.mind.folder / _TIMED).glob("clusters/*/driver.log")
    driver = [line for log in drivers for line in log.read_text().splitlines()]
    return {**noted(daemon, run), **noted(driver, run), **runs.moments(bench.api, run)}


if __name__ == "__main__":
    as_command(main)
