"""Flows that name their task runners."""

import os

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_dask import DaskTaskRunner


@task
def pid() -> int:
    return os.getpid()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def named() -> int:
    return int(pid.submit().result())


@flow(task_runner=DaskTaskRunner(), log_prints=True)
def bare() -> None:
    print("pids", (pid.submit().result(), named(), os.getpid()))
