"""Whether bundles are where deployments say, and how often the store is asked. Time is virtual."""

import asyncio
from typing import Literal

import pytest

from flowgroup.daemon.shelf import Shelf
from flowgroup.errors import Refused, Transient
from flowgroup.model.bundle import BundleRef
from tests.daemon.test_placement import bundle

pytestmark = pytest.mark.looptime


class FakeStore:
    def __init__(self) -> None:
        self.size: int | None = 0
        self.heads = 0
        self.is_down = False

    async def head(self, address: str) -> int | None:
        self.heads += 1
        if self.is_down:
            raise Transient("away")
        return self.size

    async def presign(self, address: str, method: Literal["GET", "PUT"], expires_s: float) -> str:
        return f"{address}?{method}"


def made() -> tuple[Shelf, FakeStore, BundleRef, int]:
    ref, size = BundleRef.model_validate(bundle()), 10
    store = FakeStore()
    store.size = size
    return Shelf(store), store, ref, size


async def test_a_bundle_that_was_found_is_not_looked_for_again_for_some_minutes() -> None:
    shelf, store, ref, _ = made()
    await asyncio.gather(*(shelf.check(ref) for _ in range(100)))
    await asyncio.sleep(200)
    await shelf.check(ref)
    assert store.heads == 1
    await asyncio.sleep(200)
    await shelf.check(ref)
    assert store.heads == 2
    assert await shelf.fetch(ref) == f"{ref.address}?GET"


@pytest.mark.parametrize("wrong", [None, 1])
async def test_one_that_is_missing_or_not_whole_is_refused_until_it_was_deployed_again(wrong: int | None) -> None:
    shelf, store, ref, size = made()
    store.size = wrong
    for _ in range(2):
        with pytest.raises(Refused, match="Deploy the flow again"):
            await shelf.check(ref)
    store.size = size
    await shelf.check(ref)


async def test_a_store_that_is_away_is_asked_again() -> None:
    shelf, store, ref, _ = made()
    store.is_down = True
    with pytest.raises(Transient):
        await shelf.check(ref)
    store.is_down = False
    await shelf.check(ref)
