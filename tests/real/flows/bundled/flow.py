"""A flow with modules beside it, for tests of how they travel."""

import importlib
import os
import time
from pathlib import Path
from typing import Any

import bare.names
import helper
from prefect import flow, get_run_logger, task


@task
def seen(number: int, folder: str, mine: str, others: list[str]) -> dict[str, Any]:
    """What this task sees of `helper`, while tasks of the other runs are inside of theirs."""
    _meet(Path(folder), f"{mine}-{number}", [f"{other}-{number}" for other in others])
    import helper as again
    from helper import VERSION, Thing

    return {
        "top": helper.version(),
        "lazy": again.version(),
        "name": VERSION,
        "class": Thing.made_by,
        "same": Thing is helper.Thing,
        "pid": os.getpid(),
    }


def _meet(folder: Path, mine: str, others: list[str]) -> None:
    """Wait until the others are here too."""
    (folder / mine).touch()
    deadline = time.monotonic() + 60
    while not all((folder / other).exists() for other in others):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{others} did not come")
        time.sleep(0.02)


@task
def areas() -> list[int]:
    import late
    import shapes.round
    from shapes import UNIT

    return [late.area(), shapes.round.area(1), UNIT, importlib.import_module("late").area()]


@task
def bare_names() -> list[str]:
    from bare import names

    return [bare.names.name(), names.name()]


@flow
def bundled(folder: str = "", mine: str = "", others: tuple[str, ...] = ()) -> None:
    if folder:
        found = [future.result() for future in [seen.submit(number, folder, mine, list(others)) for number in range(2)]]
        get_run_logger().info("seen %r", found)
        return
    words = Path(__file__).parent / "data" / "words.txt"
    get_run_logger().info("areas %r", areas.submit().result())
    get_run_logger().info("bare %r", bare_names.submit().result())
    get_run_logger().info("words %r", words.read_text().strip() if words.exists() else None)
    get_run_logger().info("beside %r", [helper.version(), _late()])


def _late() -> int:
    import late

    return late.area()
