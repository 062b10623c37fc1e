"""The empty flow, in a file of its own: what else a file defines is made at each run's start, on every side."""

from prefect import flow


@flow
def empty() -> None:
    pass
