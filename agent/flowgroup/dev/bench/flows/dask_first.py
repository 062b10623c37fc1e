"""A flow that asks its cluster for one task, and says when that began."""

import time

from prefect import flow, task


@task
def now() -> float:
    return time.time()


@flow(log_prints=True)
def asks() -> None:
    print(f"first task at {now.submit().result()}")
