"""Liveness, readiness and figures, over a real socket."""

import asyncio
import contextlib

import httpx
import pytest

from flowgroup.errors import Refused
from flowgroup.health import Health, serve


async def ask(port: int, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.request(method, f"http://127.0.0.1:{port}{path}")


async def test_it_says_what_it_is_asked() -> None:
    health = Health()
    async with serve(health, "127.0.0.1", 0) as port:
        assert (await ask(port, "/livez")).status_code == 200
        assert (await ask(port, "/readyz")).status_code == 503
        health.ready()
        assert (await ask(port, "/readyz?verbose")).status_code == 200
        assert "flowgroup_slots" in (await ask(port, "/metrics")).text
        assert (await ask(port, "/")).status_code == 404
        assert (await ask(port, "/livez", "POST")).status_code == 405
        assert (await ask(port, "/livez", "HEAD")).content == b""


@pytest.mark.parametrize("said", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x00\xff\r\n\r\n", b"x" * 20_000, b""])
async def test_nonsense_harms_nobody(said: bytes) -> None:
    async with serve(Health(), "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        assert (await ask(port, "/livez")).status_code == 200


async def test_a_port_that_is_taken_is_refused_by_name() -> None:
    async with serve(Health(), "127.0.0.1", 0) as port:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with serve(Health(), "127.0.0.1", port):
                pass
        assert caught.group_contains(Refused, match="FLOWGROUP_HEALTH_PORT")


@pytest.mark.looptime
async def test_a_loop_that_does_not_come_round_is_named() -> None:
    health = Health()
    moved = health.loop("poll", limit_s=10)
    health.loop("reap", limit_s=100)
    await asyncio.sleep(9)
    moved()
    await asyncio.sleep(9)
    assert health.stuck() == []
    await asyncio.sleep(2)
    assert health.answer("/livez") == (503, "text/plain", b"stuck: poll\n")
