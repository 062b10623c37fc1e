"""What a daemon answers to probes, whatever Prefect's API does."""

import asyncio
from pathlib import Path

import httpx
import pytest

from flowgroup.daemon.main import run
from flowgroup.daemon.reconcile import patiently
from flowgroup.settings import DaemonSettings, DriverSettings, PrefectSettings, RelaySettings, Settings
from tests.fakes.backend import FakeBackend
from tests.fakes.prefect_api import FakePrefect
from tests.servers import free_port


async def _status(client: httpx.AsyncClient, path: str) -> int | None:
    try:
        return (await client.get(path)).status_code
    except httpx.TransportError:
        return None


async def _until(client: httpx.AsyncClient, path: str, status: int) -> None:
    async with asyncio.timeout(60):
        while await _status(client, path) != status:
            await asyncio.sleep(0.02)


async def test_a_daemon_lives_and_is_not_ready_while_it_waits_for_the_api_at_its_start(tmp_path: Path) -> None:
    fake, port = FakePrefect(), free_port()
    fake.fail(".", 503, times=1_000_000)
    daemon = DaemonSettings(home=tmp_path, pool="pool", poll_interval_s=0.2, events=False, health_port=port)
    settings = Settings(PrefectSettings(api_url="http://127.0.0.1:9/api"), daemon, RelaySettings(), DriverSettings())
    backend = FakeBackend(tmp_path / "pool" / "daemon.sock", relay_socket=tmp_path / "relay.sock")
    running = asyncio.create_task(run(settings, lambda *_: backend, transport=httpx.ASGITransport(fake)))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await _until(client, "/livez", 200)
            assert await _status(client, "/readyz") == 503
            assert await _status(client, "/metrics") == 200
            fake.faults.clear()
            await _until(client, "/readyz", 200)
            assert await _status(client, "/livez") == 200
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await backend.aclose()


@pytest.mark.looptime
async def test_a_reconcile_that_waits_out_an_outage_is_not_stuck() -> None:
    moved_at: list[float] = []
    now = asyncio.get_running_loop().time

    async def outage() -> None:
        await asyncio.sleep(3600)

    began = now()
    await patiently(outage(), lambda: moved_at.append(now()))
    gaps = [after - before for before, after in zip(moved_at, [*moved_at[1:], now()], strict=True)]
    assert now() - began >= 3600
    assert max(gaps) <= 60
