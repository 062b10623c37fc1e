"""A flow whose module is slow to import."""

import pandas  # type: ignore[import-untyped,unused-ignore]
from prefect import flow


@flow
def frames() -> None:
    assert pandas.__version__
