"""What is run on every side. This folder is no package, as an author's would not be."""

import os
import time
from pathlib import Path
from typing import Any

from prefect import flow, task


@task
def step(number: int) -> int:
    return number


@flow(log_prints=True)
def speaks(lines: int = 10, pause_s: float = 0.4) -> None:
    """Each line says when it was printed; each is followed by a task."""
    for number in range(lines):
        print(f"printed at {time.time()}")
        step.submit(number).result()
        time.sleep(pause_s)


@flow
def sleeps(until: str) -> None:
    """Under way until somebody makes this file."""
    while not Path(until).exists():
        time.sleep(0.1)


@flow(log_prints=True)
def chatty(lines_per_s: int = 100, seconds: float = 20.0) -> None:
    """Each line has its number, and says when it was printed."""
    began = time.monotonic()
    for number in range(round(lines_per_s * seconds)):
        time.sleep(max(0.0, began + number / lines_per_s - time.monotonic()))
        print(f"line {number} printed at {time.time()}")


@flow
def mapped(count: int) -> float:
    """How many seconds it takes to map so many small tasks and to have their results."""
    began = time.monotonic()
    total = sum(step.map(range(count)).result())
    assert total == sum(range(count))
    return time.monotonic() - began


@flow(log_prints=True)
def maps(count: int = 1000, stock: bool = False) -> None:
    """On the group's workers, by the group's own task runner, or by prefect-dask's."""
    run = mapped
    if stock:
        from prefect_dask.task_runners import DaskTaskRunner

        runner: Any = DaskTaskRunner(address=os.environ["FLOWGROUP_DASK_SCHEDULER"])  # noqa: TID251  an author's flow
        run = mapped.with_options(task_runner=runner)
    print(f"mapped {count} in {run(count)} s")
