"""A run that writes down each of its steps, so that what is lost or done twice shows."""

import time

from prefect import flow, get_run_logger, task


@task
def beat(number: int) -> int:
    get_run_logger().info("task %d of the ledger", number)
    return number


@flow
def ledger(beats: int, every_s: float) -> None:
    for number in range(beats):
        get_run_logger().info("step %d of the ledger", number)
        assert beat.submit(number).result() == number
        time.sleep(every_s)
