"""A pool whose daemon has public keys runs only what is signed by one of them."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from flowgroup import signing
from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> signing.KeyPair:
    return signing.new_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(prefect_api: str, keys: signing.KeyPair) -> Iterator[Stack]:
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "signed", keys=keys.public) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def good(signed: Stack, keys: signing.KeyPair) -> str:
    return signed.deploy("bundled/flow.py:bundled", "signed", "--signing-key", str(keys.private))


@pytest.fixture(scope="module")
def pull_step(signed: Stack, good: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An ordinary deployment of Prefect: its code is a folder."""
    there = signed.api.get(f"/deployments/{good}").json()
    code = tmp_path_factory.mktemp("code")
    (code / "flow.py").write_text("from prefect import flow\n@flow\ndef bundled():\n    pass\n")
    body = {
        "name": "by-pull-step",
        "flow_id": there["flow_id"],
        "work_pool_name": signed.pool,
        "entrypoint": "flow.py:bundled",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(code)}}],
    }
    answer = signed.api.post("/deployments/", json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def crashed(signed: Stack, deployment: str) -> str:
    run = signed.start(deployment)
    assert signed.wait(run)["state_name"] == "Crashed"
    return signed.message(run)


def test_a_signed_flow_runs(signed: Stack, good: str, keys: signing.KeyPair) -> None:
    assert signed.api.get(f"/deployments/{good}").json()["job_variables"]["bundle"]["key_id"] == keys.key_id
    assert signed.wait(signed.start(good))["state_name"] == "Completed"


def test_an_unsigned_flow_is_refused_with_the_remedy(signed: Stack) -> None:
    message = crashed(signed, signed.deploy("bundled/flow.py:bundled", "unsigned"))
    assert "'bundled/unsigned' is not signed" in message
    assert "FLOWGROUP_SIGNING_KEY" in message


def test_a_flow_signed_by_a_stranger_is_refused(signed: Stack, tmp_path: Path) -> None:
    stranger = signing.new_pair(tmp_path)
    message = crashed(signed, signed.deploy("bundled/flow.py:bundled", "s", "--signing-key", str(stranger.private)))
    assert f"{stranger.key_id}, which is not trusted here" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start_script": "touch /tmp/never"}, "start script"),
        ({"image": "another"}, "image"),
        ({"env": {"PYTHONPATH": "/tmp"}}, "environment"),
    ],
)
def test_what_the_author_signed_cannot_be_changed_on_the_run(
    signed: Stack, good: str, change: dict[str, Any], said: str
) -> None:
    body = {"state": {"type": "SCHEDULED"}, "job_variables": change}
    run = signed.api.post(f"/deployments/{good}/create_flow_run", json=body).json()["id"]
    assert signed.wait(run)["state_name"] == "Crashed"
    assert f"the {said} of 'bundled/signed' is not the one that its author signed" in signed.message(run)


def test_pull_steps_are_refused_unless_the_pool_allows_it(signed: Stack, pull_step: str) -> None:
    message = crashed(signed, pull_step)
    assert "bundled/by-pull-step has no signed bundle" in message
    assert '"allow_unsigned": true' in message
    own = {"job_variables": {"allow_unsigned": True}, "state": {"type": "SCHEDULED"}}
    answer = signed.api.post(f"/deployments/{pull_step}/create_flow_run", json=own)
    assert answer.status_code == 422, "a run cannot allow it to itself"
    template = signed.api.get(f"/work_pools/{signed.pool}").json()["base_job_template"]
    template["job_configuration"]["allow_unsigned"] = True
    signed.api.patch(f"/work_pools/{signed.pool}", json={"base_job_template": template}).raise_for_status()

    def runs() -> bool:  # the daemon knows the pool for some seconds
        return bool(signed.wait(signed.start(pull_step))["state_name"] == "Completed")

    wait_for(runs, "the pool allows it")
