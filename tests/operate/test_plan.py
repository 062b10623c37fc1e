"""The coming runs of a pool, by the daemon's own placement."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup import cli
from flowgroup.edge import wire as wire_room
from flowgroup.edge.wire import Wire
from flowgroup.model.variables import base_job_template
from flowgroup.settings import PrefectSettings
from tests.fakes.prefect_api import FakePrefect


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    fake = FakePrefect()
    fake.pools["pool"] = {"id": "1", "name": "pool", "type": "dask", "base_job_template": base_job_template()}

    @asynccontextmanager
    async def connected(settings: PrefectSettings) -> AsyncIterator[Wire]:
        async with wire_room.connected(settings, transport=httpx.ASGITransport(fake)) as wire:
            yield wire

    monkeypatch.setattr("flowgroup.operate.plan.connected", connected)
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.test/api")
    monkeypatch.setenv("FLOWGROUP_HOME", str(tmp_path))
    return fake


def plan(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "--pool", "pool", "--json", *more])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert isinstance(ended.value.code, int)
    return ended.value.code, told


def test_runs_are_placed_and_nothing_is_polled_or_changed(
    fake: FakePrefect, capsys: pytest.CaptureFixture[str]
) -> None:
    small = fake.add_deployment("etl", "small")
    large = fake.add_deployment("ml", "large", job_variables={"workers": 4})
    for in_s, deployment in ((600, small), (700, small), (90_000, small), (650, large)):
        fake.add_run(deployment, in_s=in_s)
    status, told = plan(capsys)
    assert status == 0
    assert [(one["deployment"], one["how"]) for one in told["runs"]] == [
        ("etl/small", "prewarmed"),
        ("ml/large", "prewarmed"),
        ("etl/small", "reused"),
    ]
    assert told["peak_clusters"]["most"] == 2
    assert told["peak_pods"]["most"] == 1 + 6
    assert not told["is_daemon_seen"]
    assert fake.count("get_scheduled_flow_runs|set_state|PATCH|DELETE") == 0


def test_a_run_that_cannot_be_placed_is_said_and_is_status_1(
    fake: FakePrefect, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.add_run(fake.add_deployment(job_variables={"wrokers": 1}), in_s=60, name="odd")
    status, told = plan(capsys)
    assert status == 1
    assert told["refused"][0]["name"] == "odd"
    assert "wrokers" in told["refused"][0]["reason"]
    assert told["runs"] == []


def test_how_long_runs_took_says_how_long_a_cluster_stays(
    fake: FakePrefect, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = fake.add_deployment()
    fake.put_state(fake.add_run(deployment, total_run_time=1000.0), "COMPLETED")
    fake.add_run(deployment, in_s=60)
    fake.add_run(deployment, in_s=1200)
    _, told = plan(capsys)
    assert [one["how"] for one in told["runs"]] == ["prewarmed", "reused"]
    assert told["runs"][0]["lasts_s"] == 1000.0
