"""
How many workers each group wants, and which of them may go. Pure.

The scheduler imports it: nothing but the standard library.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Resources = Mapping[str, float]
_FULL, _ROOMY = 0.6, 0.5  # of a group's memory: above the one more workers are wanted, above the other none may go


@dataclass(frozen=True, slots=True)
class Group:
    """A group of workers: their names begin with `prefix`, each has `threads` and these Dask `resources`."""

    name: str
    prefix: str
    least: int
    most: int
    threads: int = 1
    resources: Resources = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks that ask for the same: how many may run now, and for how long they would keep one thread busy."""

    needs: tuple[tuple[str, float], ...]
    tasks: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that takes tasks. `idle_s`: for how long nothing has run on it; None: something does, or cannot be moved."""

    address: str
    group: str
    idle_s: float | None
    bytes_held: int = 0
    memory_limit: int = 0


def groups_of(text: str) -> list[Group]:
    """What a backend says on the scheduler's command line. Raises ValueError."""
    said: list[dict[str, Any]] = json.loads(text)
    return [Group(**one) for one in said]


def group_of(worker: str, groups: Sequence[Group]) -> str | None:
    """The group of a worker of this name: that with the longest prefix, for one may be the beginning of another."""
    fitting = [group for group in groups if worker.startswith(group.prefix)]
    return max(fitting, key=lambda group: len(group.prefix)).name if fitting else None


def plain(groups: Sequence[Group]) -> Group | None:
    """Where tasks that ask for nothing are counted: the default group, else the first that may have workers."""
    return next((group for group in groups if group.most), None)


def wanted(
    groups: Sequence[Group], loads: Sequence[Load], workers: Sequence[Worker], *, target_s: float
) -> dict[str, int]:
    """
    Workers that each group is to have, so that what may run now is done in about `target_s`: never more than it has use
    for, one at least where something waits, and within the group's numbers.
    """
    shares: dict[str, list[tuple[float, float]]] = {group.name: [] for group in groups}
    for load in loads:
        group = _for(load, groups)
        if group:
            share = _share(load, group)
            shares[group.name].append((load.tasks * share, load.seconds * share))
    return {group.name: _clamped(group, shares[group.name], workers, target_s) for group in groups}


def may_go(group: Group, wanted: int, workers: Sequence[Worker], *, idle_s: float, keeps_last: bool) -> list[str]:
    """
    Addresses of the workers of this group that are too many and have been idle for so long, those with the least data
    first. `keeps_last`: there are results in the cluster, and this group's last worker stays to hold them.
    """
    there = [worker for worker in workers if worker.group == group.name]
    spare = len(there) - max(wanted, 1 if keeps_last else 0)
    idle = [worker for worker in there if worker.idle_s is not None and worker.idle_s >= idle_s]
    going: list[str] = []
    for worker in sorted(idle, key=lambda worker: (worker.bytes_held, -(worker.idle_s or 0.0))):
        if len(going) >= spare or not _is_room(workers, [*going, worker.address]):
            break
        going.append(worker.address)
    return going


def _for(load: Load, groups: Sequence[Group]) -> Group | None:
    if not load.needs:
        return plain(groups)
    fitting = [group for group in groups if group.most and all(group.resources.get(n, 0) >= a for n, a in load.needs)]
    return fitting[0] if fitting else None


def _share(load: Load, group: Group) -> float:
    """What one task takes of one worker."""
    return max(1 / group.threads, *(amount / group.resources[name] for name, amount in load.needs), 0.0)


def _clamped(group: Group, shares: list[tuple[float, float]], workers: Sequence[Worker], target_s: float) -> int:
    most_useful = math.ceil(sum(tasks for tasks, _ in shares) - 1e-9)
    busy = math.ceil(sum(seconds for _, seconds in shares) / target_s - 1e-9)
    count = min(max(busy, 1 if shares else 0), most_useful)
    there = [worker for worker in workers if worker.group == group.name]
    if _held(there) > _FULL * _limit(there) > 0:
        count = max(count, 2 * len(there))
    return min(max(count, group.least), group.most)


def _is_room(workers: Sequence[Worker], going: Sequence[str]) -> bool:
    left = [worker for worker in workers if worker.address not in going]
    return not _limit(workers) or _held(workers) <= _ROOMY * _limit(left)


def _held(workers: Sequence[Worker]) -> int:
    return sum(worker.bytes_held for worker in workers)


def _limit(workers: Sequence[Worker]) -> int:
    return sum(worker.memory_limit for worker in workers)
