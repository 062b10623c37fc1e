"""The line to the drivers when this daemon does not lead any more: nothing is said, and nobody is let in. In virtual time."""

import asyncio
from pathlib import Path

import pytest

from flowgroup.daemon.drivers import Drivers
from flowgroup.edge.fence import Fence, NotLeading
from flowgroup.model.ids import AttemptId
from tests.daemon.test_drivers import NAME, SPEC, order
from tests.fakes.backend import FakeBackend, completes

pytestmark = pytest.mark.looptime


async def test_a_closed_fence_lets_no_order_out_and_sends_drivers_away(tmp_path: Path) -> None:
    socket, fence = tmp_path / "daemon.sock", Fence()
    drivers, backend = Drivers(fence=fence), FakeBackend(socket, completes)
    async with drivers.serve(socket, lambda _: backend.clusters[NAME].secret):
        await backend.create(SPEC)
        driver = backend.drivers[NAME]
        await asyncio.sleep(3.0)
        assert drivers.has_reported(NAME)
        fence.close()
        with pytest.raises(NotLeading):
            drivers.send(NAME, order())
        assert not drivers.was_given(NAME, AttemptId("attempt"))
        drivers.cancel(NAME, AttemptId("attempt"), 1.0)
        for _ in range(50):
            await asyncio.sleep(0.1)
            assert not drivers.has_reported(NAME), "it dialled again and was let in"
        assert (driver.orders, driver.cancels, driver.is_alive) == ([], [], True)
        await backend.aclose()
        await asyncio.sleep(2.0)


async def test_a_driver_hears_something_while_its_daemon_lives(tmp_path: Path) -> None:
    socket = tmp_path / "daemon.sock"
    drivers, backend = Drivers(), FakeBackend(socket, completes, silent_s=5.0)
    async with drivers.serve(socket, lambda _: backend.clusters[NAME].secret):
        await backend.create(SPEC)
        await asyncio.sleep(1.0)
        line = drivers.view(NAME).line
        assert line is not None
        await asyncio.sleep(60.0)
        assert drivers.view(NAME).line is line, "it has dialled again"
        await backend.aclose()
        await asyncio.sleep(2.0)
