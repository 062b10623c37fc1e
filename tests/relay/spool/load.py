"""
How fast lines are acknowledged: a relay's process, one desk that sends 2,000 lines a second for 20 s, a fake API.

    PYTHONPATH=$PWD/agent:$PWD python -m tests.relay.spool.load
"""

import asyncio
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from tests.fakes.upstream import fake_api
from tests.relay.serving import CONTROL_KEY, TOKEN, an_id, sha256
from tests.relay.test_process import relay_process

_LINES = 200
_EVERY_S = 0.1
_FOR_S = 20.0


async def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.sock"
        async with fake_api() as api:
            with relay_process("--uds", str(path), secrets={"api_url": api.url}) as process:
                while not path.exists():
                    await asyncio.sleep(0.05)
                transport = httpx.AsyncHTTPTransport(uds=str(path))
                async with httpx.AsyncClient(transport=transport, base_url="http://relay", timeout=60) as client:
                    took = await _sent(client)
                    async with asyncio.timeout(120):
                        while len(api.logs) < len(took) * _LINES:
                            await asyncio.sleep(0.1)
                _tell(took, process.pid, len({entry["message"] for entry in api.logs}), len(api.logs))


async def _sent(client: httpx.AsyncClient) -> list[float]:
    run = an_id()
    opened = {"run_id": run, "token_sha256": sha256(TOKEN), "results": None, "ttl_s": 600}
    authority = {"Authorization": f"Bearer {CONTROL_KEY}"}
    (await client.put(f"/flowgroup/attempts/{an_id()}", json=opened, headers=authority)).raise_for_status()
    desk, took = an_id(), []
    begun = time.monotonic()
    for number in range(1, int(_FOR_S / _EVERY_S) + 1):
        at = datetime.now(UTC).isoformat()
        lines = [
            {
                "name": "flow",
                "level": 20,
                "message": f"{number} {one} " + "x" * 100,
                "timestamp": at,
                "flow_run_id": run,
            }
            for one in range(_LINES)
        ]
        await asyncio.sleep(max(0.0, begun + number * _EVERY_S - time.monotonic()))
        start = time.perf_counter()
        body = {"desk": desk, "number": number, "attempts": [{"token": TOKEN, "logs": lines}]}
        (await client.post("/flowgroup/records", json=body)).raise_for_status()
        took.append(time.perf_counter() - start)
    print(f"{len(took) * _LINES / (time.monotonic() - begun):.0f} lines a second")
    return took


def _tell(took: list[float], pid: int, different: int, lines: int) -> None:
    cuts = statistics.quantiles(took, n=100)
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(
        f"acknowledged: median {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, most {max(took) * 1000:.1f} ms"
    )
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    print(f"{cpu_s:.1f} s of CPU for all, {cpu_s / lines * 1e6:.0f} us a line")
    print(f"resident {int(resident) / 1024:.0f} MiB, peak {int(peak) / 1024:.0f} MiB; load {os.getloadavg()[0]:.1f}")
    print(f"at the API: {lines} lines, {different} different ones")


if __name__ == "__main__":
    asyncio.run(_main())
