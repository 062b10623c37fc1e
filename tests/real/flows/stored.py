"""A flow whose results are kept."""

import os
import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import INPUTS


@task(cache_policy=INPUTS, persist_result=True)
def doubled(number: int, salt: str) -> int:
    get_run_logger().info("computed %d of %s", number, salt)
    return 2 * number


@task(persist_result=False)
def store_variables() -> list[str]:
    return _of_the_store()


@flow(persist_result=True)
def stored(salt: str, until: str = "") -> dict[str, Any]:
    """Ends when the file `until` is there, so that somebody can look at its process."""
    get_run_logger().info("pid %d", os.getpid())
    deadline = time.monotonic() + 60
    while until and not Path(until).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    found = {
        "doubled": [doubled.submit(number, salt).result() for number in (1, 2)],
        "variables": [_of_the_store(), store_variables.submit().result()],
    }
    get_run_logger().info("found %r", found)
    return found


def _of_the_store() -> list[str]:
    return sorted(name for name in os.environ if name.startswith("AWS_"))
