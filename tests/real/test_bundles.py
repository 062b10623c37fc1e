"""Flows as their authors deployed them: what travels, and what is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.real.stack import FLOWS, Stack

pytestmark = pytest.mark.real
# One worker of many threads: whatever two runs could do to each other happens in one process.
DASK = ("--workers", "1", "--worker-threads", "4")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flow again, with another version of its module."""
    folder = tmp_path_factory.mktemp("second") / "bundled"
    shutil.copytree(FLOWS / "bundled", folder, ignore=shutil.ignore_patterns("__pycache__"))
    helper = folder / "helper.py"
    helper.write_text(helper.read_text().replace("VERSION = 1", "VERSION = 2"))
    return folder


def deployed(whole: Stack, flow: Path, name: str, store: Path, *more: str) -> dict[str, Any]:
    where = ("--pool", whole.pool, "--store", f"file://{store}", "--json")
    done = whole.shell("deploy", f"{flow}:bundled", "--name", name, *where, *more)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_two_versions_of_a_module_run_at_once_on_the_same_worker(whole: Stack, second: Path, tmp_path: Path) -> None:
    one = whole.deploy("bundled/flow.py:bundled", "one", *DASK)
    two = whole.deploy(f"{second}/flow.py:bundled", "two", *DASK)
    runs = {
        name: whole.start(deployment, folder=str(tmp_path), mine=name, others=[other])
        for name, deployment, other in (("one", one, "two"), ("two", two, "one"))
    }
    for run in runs.values():
        assert whole.wait(run)["state_name"] == "Completed", whole.message(run)
    assert whole.cluster_of(runs["one"]) == whole.cluster_of(runs["two"])
    found = {name: eval(whole.wait_log(run, "seen [")["message"].removeprefix("seen ")) for name, run in runs.items()}
    assert len({seen.pop("pid") for tasks in found.values() for seen in tasks}) == 1
    for name, version in (("one", 1), ("two", 2)):
        same = {"top": version, "lazy": version, "name": version, "class": version, "same": True}
        assert found[name] == [same, same]


def test_what_lies_beside_the_flow_travels_to_its_process_and_to_its_tasks(whole: Stack) -> None:
    run = whole.start(whole.deploy("bundled/flow.py:bundled", "beside", *DASK, "--include", "data/*.txt"))
    assert whole.wait(run)["state_name"] == "Completed", whole.message(run)
    whole.wait_log(run, "areas [18, 9, 3, 18]")
    whole.wait_log(run, "bare ['bare', 'bare']")
    whole.wait_log(run, "words 'a line of data'")
    whole.wait_log(run, "beside [1, 18]")


def test_the_same_content_changes_nothing_and_another_is_a_new_version(
    whole: Stack, second: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = deployed(whole, FLOWS / "bundled/flow.py", "again", store)
    before = whole.api.get(f"/deployments/{first['deployment_id']}").json()
    again = deployed(whole, FLOWS / "bundled/flow.py", "again", store)
    after = whole.api.get(f"/deployments/{first['deployment_id']}").json()
    assert (first["changed"], again["changed"]) == (True, False)
    assert after["updated"] == before["updated"]
    assert len([file for file in store.rglob("*") if file.is_file()]) == 1
    other = deployed(whole, second / "flow.py", "again", store)
    assert other["changed"]
    assert other["deployment_id"] == first["deployment_id"]
    assert other["version"] != first["version"]
    assert len([file for file in store.rglob("*") if file.is_file()]) == 2
