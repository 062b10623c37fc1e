"""Runs that cannot run say why in their state; others go on, and so does the daemon."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.stack import Stack

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _the_daemon_lives_and_others_go_on(whole: Stack, plain: str) -> Iterator[None]:
    yield
    assert whole.daemon.poll() is None
    assert whole.wait(whole.start(plain, what="sleeps", with_={"seconds": 0}))["state_name"] == "Completed"


def written(folder: Path, source: str) -> str:
    (folder / "odd_flow.py").write_text(source)
    return f"{folder}/odd_flow.py:odd"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": "many"}, "workers: Input should be a valid integer"),
        ({"workers": -1}, "workers: Input should be greater than or equal to 0"),
        ({"wrokers": 2}, "wrokers: Extra inputs are not permitted"),
        ({"env": ["A=1"]}, "env: Input should be a valid dictionary"),
        ({"env": {"1A": "x"}}, "'1A' is not a name of an environment variable"),
        ({"mode": "alone"}, "mode: Input should be 'shared', 'exclusive' or 'per-run'"),
        ({"bundle": {"address": "http://x"}}, "bundle.address: "),
        ({"worker_memory": "{{ prefect.variables.memory }}"}, "there is no such Prefect variable"),
        ({"worker_memory": "{{ prefect.blocks.secret.memory }}"}, "the job variable worker_memory refers to a block"),
    ],
)
def test_wrong_job_variables_are_named(whole: Stack, plain: str, wrong: dict[str, Any], said: str) -> None:
    """Prefect checks them when a run is made; what is changed after that it lets pass."""
    there = whole.api.get(f"/deployments/{plain}").json()
    whole.api.post(f"/work_pools/{whole.pool}/queues", json={"name": "held"})
    queue = f"/work_pools/{whole.pool}/queues/held"
    whole.api.patch(queue, json={"is_paused": True}).raise_for_status()
    kept = {key: there[key] for key in ("flow_id", "work_pool_name", "entrypoint", "version", "job_variables")}
    made = whole.api.post("/deployments/", json={**kept, "name": "wrong-variables", "work_queue_name": "held"})
    assert made.is_success, made.text
    run = whole.start(made.json()["id"], what="sleeps")
    body = {"job_variables": {**there["job_variables"], **wrong}}
    whole.api.patch(f"/deployments/{made.json()['id']}", json=body).raise_for_status()
    whole.api.patch(queue, json={"is_paused": False}).raise_for_status()
    assert whole.wait(run)["state_name"] == "Crashed"
    assert said in whole.message(run), whole.message(run)


def test_a_module_that_only_the_author_has_is_named(whole: Stack, tmp_path: Path) -> None:
    installed = tmp_path / "elsewhere"
    installed.mkdir()
    (installed / "only_the_author_has_it.py").write_text("")
    (tmp_path / "code").mkdir()
    source = "import only_the_author_has_it\nfrom prefect import flow\n@flow\ndef odd() -> None:\n    pass\n"
    flow = written(tmp_path / "code", source)
    run = whole.start(whole.deploy(flow, "module", env={"PYTHONPATH": str(installed)}))
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "needs the module 'only_the_author_has_it', which is neither in its bundle nor installed" in whole.message(
        run
    )
    assert "put it beside the flow's file" in whole.message(run)


def test_a_module_that_only_the_author_has_is_named_when_a_task_needs_it(whole: Stack, tmp_path: Path) -> None:
    source = "from prefect import flow\n@flow\ndef odd() -> None:\n    import not_installed_anywhere\n"
    run = whole.start(whole.deploy(written(tmp_path, source), "lazily"))
    assert whole.wait(run)["state_name"] == "Failed"
    assert "No module named 'not_installed_anywhere'" in whole.message(run)


@pytest.mark.parametrize(
    "name",
    ["n" * 300, '-rf ../../etc it\'s "quoted" \\ $HOME `ls` ; ${x} {y} 😀 \t é:*?|~# 流れ ' * 6],
    ids=["long", "odd"],
)
def test_a_flow_of_any_name_runs(whole: Stack, tmp_path: Path, name: str) -> None:
    name = name.replace("/", "\N{DIVISION SLASH}")  # Prefect itself takes no /
    source = (
        f"from prefect import flow, get_run_logger\n@flow(name={name!r}, persist_result=True)\n"
        "def odd() -> int:\n    get_run_logger().info('it runs')\n    return 1\n"
    )
    run = whole.start(whole.deploy(written(tmp_path, source), "odd and long"))
    assert whole.wait(run)["state_name"] == "Completed", whole.message(run)
    whole.wait_log(run, "it runs")
    cluster = whole.cluster_of(run)
    assert len(cluster) < 64 and cluster.replace("-", "").isalnum() and cluster.isascii()


def test_a_start_script_that_fails_is_named_with_its_last_lines(whole: Stack, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text("echo looking for the licence\necho 'no licence 😀' >&2\nexit 7\n")
    source = "from prefect import flow\n@flow\ndef odd() -> None:\n    pass\n"
    flow = written(tmp_path, source)
    run = whole.start(whole.deploy(flow, "script", "--start-script", str(script)))
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "the start script ended with status 7" in whole.message(run)
    assert "looking for the licence\nno licence 😀" in whole.message(run)
    script.write_text("touch made-by-the-script\n")
    run = whole.start(whole.deploy(flow, "script", "--start-script", str(script)))
    assert whole.wait(run)["state_name"] == "Completed", whole.message(run)
    assert (whole.home / whole.pool / "clusters" / whole.cluster_of(run) / "made-by-the-script").exists()


def test_a_parameter_of_the_wrong_type_is_named(whole: Stack, plain: str) -> None:
    body = {"parameters": {"what": 3}, "enforce_parameter_schema": False, "state": {"type": "SCHEDULED"}}
    run = whole.api.post(f"/deployments/{plain}/create_flow_run", json=body).json()["id"]
    assert whole.wait(run)["state_name"] in {"Failed", "Crashed"}
    assert "Input should be a valid string" in whole.message(run)
