"""A deployment's env on the local backend: in the flow and in its tasks on workers, secret values too."""

import hashlib
import json
import uuid
from typing import Any

import pytest

from tests.real.stack import Stack
from tests.real.test_references import start

pytestmark = pytest.mark.real


def secret_block(whole: Stack, value: str) -> str:
    """The reference to a new Secret block of Prefect's."""
    name = f"word-{uuid.uuid4().hex[:8]}"
    kind = whole.api.get("/block_types/slug/secret").json()["id"]
    asked = {"block_schemas": {"block_type_id": {"any_": [kind]}}}
    schemas = whole.api.post("/block_schemas/filter", json=asked).json()
    body = {"name": name, "data": {"value": value}, "block_type_id": kind, "block_schema_id": schemas[0]["id"]}
    assert whole.api.post("/block_documents/", json=body).is_success
    return f"{{{{ prefect.blocks.secret.{name} }}}}"


def found(whole: Stack, run: str) -> Any:
    assert whole.wait(run, timeout_s=90)["state_name"] == "Completed", whole.message(run)
    return eval(whole.wait_log(run, "found {")["message"].removeprefix("found "))


def test_a_task_on_a_worker_has_what_the_deployment_says_and_nothing_of_what_the_run_itself_sets(whole: Stack) -> None:
    word = f"hush-{uuid.uuid4().hex}"
    env = {"LAB_MODE": "prod", "LAB_WORD": secret_block(whole, word), "PREFECT_LOGGING_LEVEL": "DEBUG"}
    env["HTTP_PROXY"] = "http://127.0.0.1:9"  # where nobody listens: Prefect's API is not asked through it
    lab = whole.deploy("lab.py:lab", "env", "--workers", "1", "--idle-timeout-s", "5")
    there = whole.api.get(f"/deployments/{lab}").json()["job_variables"]
    assert whole.api.patch(f"/deployments/{lab}", json={"job_variables": {**there, "env": env}}).is_success
    names = ["LAB_MODE", "LAB_WORD", "LAB_OWN", "PREFECT_LOGGING_LEVEL"]

    digest = hashlib.sha256(word.encode()).hexdigest()[:12]
    said = {"LAB_MODE": "prod", "LAB_WORD": "********", "LAB_WORD digest": digest, "PREFECT_LOGGING_LEVEL": "DEBUG"}
    run = start(whole, lab, {"LAB_OWN": "x"}, names)
    assert found(whole, run) == {"run": {**said, "LAB_OWN": "x"}, "worker": {**said, "LAB_OWN": None}}
    other = start(whole, lab, {"LAB_MODE": "dev"}, names)
    assert found(whole, other) == {
        "run": {**said, "LAB_MODE": "dev", "LAB_OWN": None},
        "worker": {**said, "LAB_MODE": None, "LAB_OWN": None},
    }
    assert whole.cluster_of(run) != whole.cluster_of(other)
    places = [whole.home / whole.pool / "clusters" / whole.cluster_of(one) for one in (run, other)]
    written = [file for place in places for file in place.glob("*.*") if file.name != "env.json"]
    assert {"spec.json", "cluster.json", "driver.log", "workers.log"} <= {file.name for file in written}
    for file in (*written, whole.home / "daemon.log"):
        assert word not in file.read_text(errors="replace"), file


def test_a_setting_that_prefect_does_not_take_is_said_in_the_runs_state(whole: Stack) -> None:
    lab = whole.deploy("lab.py:lab", "env wrong", "--workers", "1", "--idle-timeout-s", "1")
    there = whole.api.get(f"/deployments/{lab}").json()["job_variables"]
    wrong = {**there, "env": {"PREFECT_CLIENT_MAX_RETRIES": "many"}}
    assert whole.api.patch(f"/deployments/{lab}", json={"job_variables": wrong}).is_success, json.dumps(wrong)
    run = start(whole, lab, {}, [])
    assert whole.wait(run, timeout_s=60)["state_name"] == "Crashed"
    assert "does Prefect take each PREFECT_ variable of the deployment's env?" in whole.message(run)
