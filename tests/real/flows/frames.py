"""A flow that imports something large, and says whether it was there already."""

import os
import sys
from pathlib import Path

WAS_THERE = "pandas" in sys.modules

import pandas  # noqa: E402
from prefect import flow, get_run_logger  # noqa: E402

if ledger := os.environ.get("FRAMES_LEDGER"):
    with Path(ledger).open("a") as file:
        file.write(f"{os.getpid()}\n")


@flow
def frames(numbers: list[int]) -> int:
    found = int(pandas.DataFrame({"number": numbers}).number.sum())
    get_run_logger().info("found %d, there before: %s, process %d", found, WAS_THERE, os.getpid())
    return found
