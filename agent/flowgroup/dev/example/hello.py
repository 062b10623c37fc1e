"""The demo's flow: a few tasks on the flow's own Dask cluster."""

import os
from pathlib import Path

from prefect import flow, get_run_logger, task


@task
def square(number: int) -> int:
    get_run_logger().info("%d squared, on the Dask worker with process id %d", number, os.getpid())
    return number * number


@flow(log_prints=True)
def hello(count: int = 4) -> int:
    print(f"hello from process {os.getpid()}, in {Path.cwd()}")
    total = sum(square.map(range(count)).result())
    print(f"the squares of 0 to {count - 1} add up to {total}")
    return total


if __name__ == "__main__":
    hello()
