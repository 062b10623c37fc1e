"""`deploy` with an image in a real registry, at a real Prefect server."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowgroup import Cluster, WorkerGroup, deploy, signing
from flowgroup.client import shell
from flowgroup.client.deploy import Deployed
from flowgroup.dev.patient import Patient
from flowgroup.model.bundle import BundleRef
from flowgroup.model.variables import base_job_template
from tests.registries import image_registry, push

pytestmark = pytest.mark.real
POOL = "pool-of-image-tests"


@flow(name="imaged")
def imaged() -> None: ...


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        image_registry(tmp_path_factory.mktemp("registry")) as host,
        httpx.Client(base_url=f"http://{host}") as client,
    ):
        yield client


@pytest.fixture
def server(prefect_api: str) -> Iterator[httpx.Client]:
    """A client of the server, which has a pool of our type."""
    with httpx.Client(base_url=prefect_api, timeout=90, transport=Patient()) as client:
        pool = {"name": POOL, "type": "dask", "base_job_template": base_job_template()}
        assert client.post("/work_pools/", json=pool).status_code in (201, 409)
        with temporary_settings({PREFECT_API_URL: prefect_api}):
            yield client


@pytest.fixture
def author(server: httpx.Client, tmp_path: Path) -> Callable[..., Deployed]:
    def call(**said: Any) -> Deployed:
        return deploy(imaged, **{"name": tmp_path.name, "pool": POOL, "store": f"file://{tmp_path}/store", **said})

    return call


def _variables(server: httpx.Client, done: Deployed) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/deployments/{done.deployment_id}").raise_for_status().json()["job_variables"]
    return found


def test_what_is_stored_and_signed_is_the_digest_and_a_moved_tag_is_a_change(
    author: Callable[..., Deployed], server: httpx.Client, registry: httpx.Client, tmp_path: Path
) -> None:
    key = signing.new_pair(tmp_path / "keys").private
    image = f"{registry.base_url.netloc.decode()}/team/etl:1"
    groups = [WorkerGroup(name="gpu", image=image)]
    said: dict[str, Any] = {"image": image, "signing_key": key, "cluster": Cluster(workers=1, worker_groups=groups)}
    versions = []
    for text in ("first", "second"):
        pinned = f"{image}@{push(registry, 'team/etl', '1', text)}"
        done = author(**said)
        assert (done.changed, done.image) == (True, pinned)
        stored = _variables(server, done)
        assert (stored["image"], stored["worker_groups"][0]["image"]) == (pinned, pinned)
        assert json.loads(BundleRef.model_validate(stored["bundle"]).statement)["image"] == pinned
        assert not author(**said).changed
        versions.append(done.version)
    assert len(set(versions)) == 2


def test_nobody_is_asked_where_the_author_says_so(
    author: Callable[..., Deployed], server: httpx.Client, registry: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    image = f"{registry.base_url.netloc.decode()}/team/etl:2"
    push(registry, "team/etl", "2", "first")
    done = author(image=image, resolve_image=False)
    assert (done.image, _variables(server, done)["image"], caplog.messages) == (image, image, [])


def test_an_image_that_is_not_there_is_deployed_all_the_same_and_told(
    author: Callable[..., Deployed], registry: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    image = f"{registry.base_url.netloc.decode()}/team/none:1"
    assert author(image=image).image == image
    (line,) = [record.getMessage() for record in caplog.records if record.name == "flowgroup.deploy"]
    assert line.startswith(f"The image {image} is not pinned to a digest: its registry has no such image, or hides it")


@pytest.mark.parametrize("flags", [[], ["--no-resolve-image"]])
def test_a_shell_shows_the_image_as_it_is_stored(
    flags: list[str], server: httpx.Client, registry: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shelled.py").write_text("from prefect import flow\n\n\n@flow\ndef shelled_image(): ...\n")
    image = f"{registry.base_url.netloc.decode()}/team/etl:3"
    digest = push(registry, "team/etl", "3", "first")
    parser = argparse.ArgumentParser()
    shell.add_arguments(parser)
    told = [f"{tmp_path}/shelled.py", "--name", tmp_path.name, "--pool", POOL, "--store", f"file://{tmp_path}/store"]
    assert shell.deploy_command(parser.parse_args([*told, "--image", image, *flags])) == 0
    assert f"image     {image}{'' if flags else f'@{digest}'}\n" in capsys.readouterr().out
