"""One whole stack for the session: most tests need no more than runs of their own on it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.real.stack import Stack, stack


@pytest.fixture(scope="session")
def whole(prefect_api: str) -> Iterator[Stack]:
    """A daemon with its relay on the pool `real`. Clusters are kept for the session."""
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "real") as made,
    ):
        yield made


@pytest.fixture(scope="session")
def plain(whole: Stack) -> str:
    """The deployment of the flow `lab` without Dask."""
    return whole.deploy("lab.py:lab", "plain")


@pytest.fixture(scope="session")
def dask(whole: Stack) -> str:
    """The deployment of the flow `lab` on two Dask workers of two threads."""
    return whole.deploy("lab.py:lab", "dask", "--workers", "2", "--worker-threads", "2")
