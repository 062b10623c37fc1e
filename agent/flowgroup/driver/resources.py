"""
What a task's tags ask of its worker: `@task(tags=["dask-resource:GPU=1"])` is `dask.annotate(resources={"GPU": 1})`.

Tasks that ask for nothing may be on any worker that is free, those of a GPU group too, as in Dask.
"""

from collections.abc import Iterable

PREFIX = "dask-resource:"


def asked(tags: Iterable[str]) -> dict[str, float]:
    """By resource; without a number it is 1. Raises ValueError for a tag that cannot be read."""
    found: dict[str, float] = {}
    for tag in sorted(tags):
        if tag.startswith(PREFIX):
            name, _, amount = tag.removeprefix(PREFIX).partition("=")
            found[name.strip()] = _number(amount, tag)
    return found


def _number(text: str, tag: str) -> float:
    try:
        number = float(text or 1)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"the tag {tag!r} is not {PREFIX}NAME=AMOUNT with an amount above 0, such as {PREFIX}GPU=1")
    return number
