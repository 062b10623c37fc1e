"""A flow whose tasks run on its own Dask cluster."""

from prefect import flow, task


@task
def square(number: int) -> int:
    return number * number


@flow(log_prints=True)
def report(count: int = 8) -> int:
    total = sum(square.map(range(count)).result())
    print(f"the squares add up to {total}")
    return total
