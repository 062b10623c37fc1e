"""Templates on the whole stack: what the first run of a flow imports, the second one has when it is forked."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real


@pytest.fixture
def without(prefect_api: str) -> Iterator[Stack]:
    env = {"FLOWGROUP_DRIVER_TEMPLATES": "false"}
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "untemplated", env=env) as made,
    ):
        yield made


def start(whole: Stack, deployment: str, ledger: Path, numbers: list[int]) -> str:
    body = {
        "parameters": {"numbers": numbers},
        "state": {"type": "SCHEDULED"},
        "job_variables": {"env": {"FRAMES_LEDGER": str(ledger)}},
    }
    return str(whole.api.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status().json()["id"])


def driver_log(whole: Stack, run: str) -> str:
    return (whole.home / whole.pool / "clusters" / whole.cluster_of(run) / "driver.log").read_text()


def test_the_second_run_has_what_the_first_one_imported(whole: Stack, tmp_path: Path) -> None:
    deployment = whole.deploy("frames.py:frames", "templates")
    ledger = tmp_path / "ledger"
    first = start(whole, deployment, ledger, [1, 2])
    assert whole.wait(first)["state_name"] == "Completed", whole.message(first) + driver_log(whole, first)
    whole.wait_log(first, "found 3, there before: False")
    wait_for(lambda: "template_ready" in driver_log(whole, first), "a template")
    runs = [start(whole, deployment, ledger, [number, 10]) for number in (1, 2, 3)]
    for number, run in zip((1, 2, 3), runs, strict=True):
        assert whole.wait(run)["state_name"] == "Completed"
        whole.wait_log(run, f"found {number + 10}, there before: True")
    assert driver_log(whole, first).count("forked_from_template") == 3
    # the flow's own module is imported in each run's own process, once
    processes = [whole.wait_log(run, "found ")["message"].rpartition(" ")[2] for run in (first, *runs)]
    assert sorted(ledger.read_text().split()) == sorted(processes)
    assert len(set(processes)) == 4


def test_templates_can_be_switched_off(without: Stack, tmp_path: Path) -> None:
    deployment = without.deploy("frames.py:frames", "untemplated")
    for _ in range(2):
        run = start(without, deployment, tmp_path / "ledger", [1, 2])
        assert without.wait(run)["state_name"] == "Completed"
        without.wait_log(run, "found 3, there before: False")
    assert "template" not in driver_log(without, run)
