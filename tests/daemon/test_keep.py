"""The lease of all clusters, renewed while the daemon lives. Time is virtual."""

import asyncio

import pytest

from flowgroup.daemon.keep import keep
from flowgroup.errors import Transient

pytestmark = pytest.mark.looptime


class Clusters:
    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.renewed_at: list[float] = []

    async def renew(self) -> None:
        if self.failures:
            self.failures -= 1
            raise Transient("it is away")
        self.renewed_at.append(asyncio.get_running_loop().time())


async def kept(clusters: Clusters, for_s: float) -> list[float]:
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(for_s):
            await keep(clusters, 60.0, lambda: None)
    return [round(at - began) for at in clusters.renewed_at]


async def test_clusters_are_renewed_at_once_and_then_every_minute() -> None:
    assert await kept(Clusters(), 150) == [0, 60, 120]


async def test_a_renewal_that_fails_is_tried_again_soon() -> None:
    assert await kept(Clusters(failures=3), 80) == [15, 75]
