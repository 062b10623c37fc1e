"""
A task as it travels to a worker.

The scheduler unpickles it on its way. So nothing is imported here that takes time: Prefect in the scheduler would cost the
first task of each cluster two seconds.
"""

from dataclasses import dataclass
from typing import Any

from flowgroup.driver.parts import Part


@dataclass(frozen=True)
class Upstream:
    """The place of a task's input among the arguments that Dask resolves."""

    index: int


@dataclass(frozen=True)
class Work:
    """
    One task run as it travels; `owner` is the Dask client of the run's child. `told`: say the final state at once.

    `depth` is 1 for a task of the flow, 2 for a task of such a task.
    """

    owner: str
    flow_run_id: str | None
    names: frozenset[str]
    told: bool
    depth: int
    code: Part
    frame: Part
    call: bytes


def run_task(work: Work, *upstream: Any) -> Any:
    """What Dask calls on the worker."""
    from flowgroup.driver import workers

    return workers.run_task(work, *upstream)
