"""A real Prometheus scrapes a daemon's and a relay's page once, and answers for them."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flowgroup import metrics
from flowgroup.health import Health, serve
from tests.monitoring.tools import RULES, tool
from tests.servers import free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@asynccontextmanager
async def _prometheus(folder: Path, targets: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    jobs = [{"job_name": "flowgroup", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": jobs, "rule_files": [str(RULES)]}))
    port = free_port()
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        finally:
            process.terminate()


async def _until_found(client: httpx.AsyncClient, query: str, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(120):
        while True:
            try:
                answer = await client.get("/api/v1/query", params={"query": query})
                found: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.is_success else []
            except httpx.RequestError:
                found = []
            if len(found) >= count:
                return found
            await asyncio.sleep(0.2)


async def test_a_real_prometheus_reads_what_the_daemon_and_the_relay_show(tmp_path: Path) -> None:
    tool("prometheus")
    metrics.SLOTS.set(7)
    metrics.SCHEDULE_TO_RUNNING.labels("warm").observe(0.2)
    async with (
        serve(Health(), "127.0.0.1", 0) as daemon,
        serve(Health(room=metrics.RELAY), "127.0.0.1", 0) as relay,
        _prometheus(tmp_path, [f"127.0.0.1:{daemon}", f"127.0.0.1:{relay}"]) as client,
    ):
        up = await _until_found(client, "up == 1", 2)
        assert len(up) == 2
        (slots,) = await _until_found(client, "flowgroup_slots", 1)
        assert slots["value"][1] == "7"
        assert slots["metric"]["instance"] == f"127.0.0.1:{daemon}"
        assert len(await _until_found(client, "flowgroup_build_info", 2)) == 2
        (shed,) = await _until_found(client, 'flowgroup_relay_lines_shed_total{level="DEBUG"}', 1)
        assert shed["metric"]["instance"] == f"127.0.0.1:{relay}"
        slow = 'histogram_quantile(0.5, flowgroup_schedule_to_running_seconds_bucket{cluster="warm"})'
        assert await _until_found(client, slow, 1)
        names = (await client.get("/api/v1/label/__name__/values")).json()["data"]
        ours = {name for name in names if not name.startswith(("up", "scrape_", "ALERTS"))}
        assert ours and all(name.startswith("flowgroup_") for name in ours)
