"""A bundle that is not what its deployment says: the run says so, and nothing of it is opened."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowgroup.bundles import archive
from flowgroup.edge import store
from flowgroup.model.bundle import canonical_json
from tests.real.stack import Stack

pytestmark = pytest.mark.real


class Evil:
    """Unpickling this leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


Made = Callable[..., str]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "unpickled"


@pytest.fixture
def evil(mark: Path) -> bytes:
    return archive.write(pickle.dumps(Evil(mark)), {"late.py": f"open({str(mark)!r}, 'w')".encode()})


@pytest.fixture
def made(whole: Stack, plain: str, tmp_path: Path, evil: bytes, request: pytest.FixtureRequest) -> Made:
    """Makes a deployment of `lab` on the cluster of `plain`, with what is given as its bundle and the statement about it."""
    there = whole.api.get(f"/deployments/{plain}").json()
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]

    def make(bundle: bytes | None, **said: Any) -> str:
        address = store.local_address(tmp_path / "bundle.zip")
        if bundle is not None:
            store.put_now(address, bundle)
        ref = there["job_variables"]["bundle"]
        own = {"deployment": f"lab/{name}", "sha256": hashlib.sha256(evil).hexdigest(), "size": len(evil)}
        statement = canonical_json({**json.loads(ref["statement"]), **own, **said})
        body = {
            key: there[key]
            for key in ("flow_id", "entrypoint", "version", "parameter_openapi_schema", "work_pool_name")
        }
        variables = {**there["job_variables"], "bundle": {**ref, "address": address, "statement": statement}}
        answer = whole.api.post("/deployments/", json={**body, "name": name, "job_variables": variables})
        assert answer.is_success, answer.text
        return str(answer.json()["id"])

    return make


def test_a_bundle_that_is_as_its_statement_says_is_opened(whole: Stack, made: Made, evil: bytes, mark: Path) -> None:
    run = whole.start(made(evil), what="sleeps")
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "not a flow: deploy the flow again" in whole.message(run)
    assert mark.exists()


@pytest.mark.parametrize(
    ("damage", "said", "names", "remedy"),
    [
        (lambda data: data, {"sha256": "0" * 64}, "was changed after it was deployed", "deploy the flow again"),
        (lambda data: data[:-9], {}, "the upload was cut off", "Deploy the flow again"),
        (lambda _: None, {}, "bundle.zip is not there", "Deploy the flow again"),
        (lambda data: data, {"deployment": "lab/another"}, "'lab/another'", "deploy the flow again"),
        (lambda data: data, {"version": "0" * 32}, "is version 000000", "deploy the flow again"),
        (lambda data: data, {"python": "3.8"}, "Python 3.8", "deploy it again with Python 3."),
        (lambda data: data, {"prefect": "4.1.0"}, "Prefect 4.1.0", "deploy again with Prefect 3."),
        (lambda data: data, {"cloudpickle": "99.1.0"}, "cloudpickle 99.1.0", "deploy again with cloudpickle "),
        (lambda data: data, {"size": 7}, "its statement says 7", "Deploy the flow again"),
        (lambda data: data, {"created": "tomorrow"}, "created: ", "deploy the flow again"),
    ],
    ids=[
        "tampered",
        "truncated",
        "missing",
        "another",
        "version",
        "python",
        "prefect",
        "cloudpickle",
        "size",
        "statement",
    ],
)
def test_what_does_not_fit_crashes_its_run_unopened_and_others_go_on(
    damage: Callable[[bytes], bytes | None],
    said: dict[str, Any],
    names: str,
    remedy: str,
    whole: Stack,
    plain: str,
    made: Made,
    evil: bytes,
    mark: Path,
) -> None:
    wrong = whole.start(made(damage(evil), **said), what="sleeps")
    other = whole.start(plain, what="sleeps", with_={"seconds": 0.5})
    assert whole.wait(wrong)["state_name"] == "Crashed"
    assert names in whole.message(wrong), whole.message(wrong)
    assert remedy in whole.message(wrong), whole.message(wrong)
    assert whole.wait(other)["state_name"] == "Completed"
    assert not mark.exists()


def test_a_valid_bundle_of_another_deployment_is_not_run(whole: Stack, plain: str, made: Made, evil: bytes) -> None:
    ours = made(evil)
    variables = whole.api.get(f"/deployments/{plain}").json()["job_variables"]
    whole.api.patch(f"/deployments/{ours}", json={"job_variables": variables}).raise_for_status()
    run = whole.start(ours, what="sleeps")
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "was made for the deployment 'lab/plain'" in whole.message(run)


def test_another_valid_bundle_in_the_place_of_a_bundle_is_not_run(
    whole: Stack, plain: str, made: Made, evil: bytes, tmp_path: Path
) -> None:
    address = whole.api.get(f"/deployments/{plain}").json()["job_variables"]["bundle"]["address"]
    valid = store.get_now(address)
    run = whole.start(made(valid, size=len(valid)), what="sleeps")
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "was changed after it was deployed" in whole.message(run)
