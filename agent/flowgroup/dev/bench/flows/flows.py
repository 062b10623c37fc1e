"""What is run on every side. This folder is no package, as an author's would not be."""

import time

from prefect import flow, task


@flow
def empty() -> None:
    pass


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
