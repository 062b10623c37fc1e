"""Versions of driver, scheduler and workers: what counts as a difference, what is said of it, and on a real cluster."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowgroup.driver import versions
from flowgroup.driver.spawns import spawning
from flowgroup.driver.versions import difference, here, table
from tests.real.stack import wait_for

OURS = {
    "python": "3.11.9",
    "prefect": "3.8.8",
    "dask": "1",
    "distributed": "1",
    "cloudpickle": "3.1",
    "flowgroup": "0.1",
}


@pytest.mark.parametrize(
    "theirs", [OURS, OURS | {"python": "3.11.2"}, {"python": "3.11.0"}], ids=["the same", "a patch of Python", "less"]
)
def test_what_does_not_matter_is_not_said(theirs: dict[str, str]) -> None:
    assert table({"driver": OURS, "scheduler": OURS, "worker-0": theirs}) is None


@pytest.mark.parametrize(
    ("package", "version"),
    [("python", "3.12.9"), ("prefect", "3.9.0"), ("dask", "2"), ("cloudpickle", "3.2"), ("prefect", "missing")],
)
def test_a_difference_is_a_line_with_who_has_what(package: str, version: str) -> None:
    told = table({"driver": OURS, "scheduler": OURS, "worker-7": OURS | {package: version}})
    assert told is not None
    head, line = told.splitlines()[1:3]
    assert head.split() == ["driver", "worker-7"]
    assert line.split() == [package, OURS[package], version]
    assert "Use one image" in told


def test_many_workers_are_not_all_shown() -> None:
    other = {f"worker-{number}": OURS | {"dask": "2"} for number in range(40)}
    told = table({"driver": OURS, **other})
    assert told is not None
    assert "… and 36 more workers" in told
    assert "worker-5" not in told


def address_in(written: Path) -> str:
    return str(json.loads(written.read_text())["address"])


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    written = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(written)], cwd=tmp_path)
    try:
        yield wait_for(lambda: written.exists() and written.read_text(), "the scheduler listens") and address_in(
            written
        )
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def worker(scheduler: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """A worker; with another version of cloudpickle, as far as its package's metadata say, if the test asks for it."""
    env = dict(os.environ)
    if request.param:
        shadow = tmp_path / "shadow" / f"cloudpickle-{request.param}.dist-info"
        shadow.mkdir(parents=True)
        (shadow / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cloudpickle\nVersion: {request.param}\n")
        env["PYTHONPATH"] = str(shadow.parent)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--no-nanny", "--name", "w"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--no-dashboard"], cwd=tmp_path, env=env)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def asked(scheduler: str, folder: Path) -> str | None:
    async with asyncio.timeout(120), spawning(dict(os.environ)) as forks:
        return await difference(forks, scheduler, folder)


@pytest.mark.real
@pytest.mark.parametrize("worker", [None], indirect=True)
async def test_a_cluster_of_one_environment_is_well(scheduler: str, worker: None, tmp_path: Path) -> None:
    assert await asked(scheduler, tmp_path) is None
    assert json.loads((tmp_path / "versions.json").read_text().splitlines()[-1]).keys() == {"driver", "scheduler", "w"}


@pytest.mark.real
@pytest.mark.parametrize("worker", ["9.9.9"], indirect=True)
async def test_a_worker_with_another_version_is_named(scheduler: str, worker: None, tmp_path: Path) -> None:
    told = await asked(scheduler, tmp_path)
    assert told is not None
    assert told.splitlines()[2].split() == ["cloudpickle", here()["cloudpickle"], "9.9.9"]


@pytest.mark.real
async def test_a_comparison_that_fails_keeps_no_run_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await asked("tcp://nowhere", tmp_path) is None


def test_an_order_goes_to_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    assert versions.or_asked(lambda *told: seen.append(told) or 7)(b"{}", 1, 2) == 7
    assert seen == [(b"{}", 1, 2)]
