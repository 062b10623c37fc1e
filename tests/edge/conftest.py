"""A real client over a fake API."""

from collections.abc import AsyncIterator

import httpx
import pytest

from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.settings import PrefectSettings
from tests.fakes.prefect_api import FakePrefect


@pytest.fixture
def fake() -> FakePrefect:
    return FakePrefect()


@pytest.fixture
async def api(fake: FakePrefect) -> AsyncIterator[Prefect]:
    settings = PrefectSettings(api_url="http://prefect.test/api")
    async with prefect(settings, "pool", transport=httpx.ASGITransport(fake)) as client:
        await client.ensure_pool()
        yield client
