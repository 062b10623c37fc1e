"""`{{ prefect.… }}` in job variables on the local backend: read for each run, in that run alone, and in no log."""

import hashlib
import uuid
from typing import Any

import pytest

from tests.real.stack import Stack

pytestmark = pytest.mark.real


def start(whole: Stack, deployment: str, env: dict[str, str], names: list[str], **more: Any) -> str:
    asked = {"names": names, "files": [], "modules": []}
    body = {
        "parameters": {"what": "finds", "with_": asked},
        "state": {"type": "SCHEDULED"},
        "job_variables": {"env": env, **more},
    }
    answer = whole.api.post(f"/deployments/{deployment}/create_flow_run", json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def test_a_variable_and_a_block_reach_the_run_and_what_is_not_there_is_named(whole: Stack, dask: str) -> None:
    word, name = f"hush-{uuid.uuid4().hex}", f"word-{uuid.uuid4().hex[:8]}"
    kind = whole.api.get("/block_types/slug/secret").json()["id"]
    schemas = whole.api.post(
        "/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [kind]}}}
    ).json()
    body = {"name": name, "data": {"value": word}, "block_type_id": kind, "block_schema_id": schemas[0]["id"]}
    assert whole.api.post("/block_documents/", json=body).is_success
    run = start(whole, dask, {"LAB_WORD": f"x{{{{ prefect.blocks.secret.{name} }}}}"}, ["LAB_WORD"])
    lost = start(whole, dask, {"LAB_WORD": f"{{{{ prefect.blocks.secret.{name}-none }}}}"}, [])
    pods = start(whole, dask, {}, [], env_from=[{"secretRef": {"name": "db"}}])
    assert whole.wait(run)["state_name"] == "Completed", whole.message(run)
    found = eval(whole.wait_log(run, "found {")["message"].removeprefix("found "))
    digest = hashlib.sha256(f"x{word}".encode()).hexdigest()[:12]
    assert found == {"run": {"LAB_WORD": "********", "LAB_WORD digest": digest}, "worker": {"LAB_WORD": None}}
    assert whole.wait(lost)["state_name"] == "Crashed"
    assert f"no block '{name}-none' of type 'secret'" in whole.message(lost)
    assert whole.wait(pods)["state_name"] == "Crashed"
    assert "env_from needs Kubernetes" in whole.message(pods)
    assert word not in (whole.home / "daemon.log").read_text()
