"""A flow whose run has something to show on its page in Prefect's UI."""

from prefect import flow, task


@task
def where(number: int) -> int:
    return number


@flow(log_prints=True)
def page(lines: int = 3, fail: bool = False) -> None:
    for number in range(lines):
        print(f"line {number}")
    where.map(range(2)).result()
    if fail:
        raise RuntimeError("the flow fails on purpose")
