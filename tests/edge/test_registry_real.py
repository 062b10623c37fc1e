"""Digests from a real registry, as it is and with a password."""

import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from flowgroup.edge.registry.digest import digest_of
from flowgroup.edge.registry.login import Login, login
from flowgroup.errors import Permanent, Transient
from flowgroup.model.image import ImageName, parse
from tests.registries import INDEX, MANIFEST, image_registry, push, put
from tests.servers import free_port

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with image_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def nobody(host: str) -> Login | None:
    return None


def named(name: str) -> ImageName:
    found = parse(name)
    assert found is not None
    return found


def test_a_tag_is_told_and_told_anew_when_it_has_moved(open_registry: str) -> None:
    with httpx.Client(base_url=f"http://{open_registry}") as client:
        image = named(f"{open_registry}/team/etl:1")
        for text in ("first", "second"):
            pushed = push(client, "team/etl", "1", text)
            assert digest_of(image, nobody, timeout_s=30) == pushed


def test_an_image_for_several_platforms_is_its_index(open_registry: str) -> None:
    with httpx.Client(base_url=f"http://{open_registry}") as client:
        one = push(client, "team/many", "amd64", "amd64")
        size = len(client.get(f"/v2/team/many/manifests/{one}", headers={"Accept": MANIFEST}).content)
        part = {
            "mediaType": MANIFEST,
            "digest": one,
            "size": size,
            "platform": {"architecture": "amd64", "os": "linux"},
        }
        index = put(client, "team/many", "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [part]})
    assert digest_of(named(f"{open_registry}/team/many:1"), nobody, timeout_s=30) == index != one


def test_an_image_that_is_not_there_is_told(open_registry: str) -> None:
    with pytest.raises(Permanent, match="has no such image"):
        digest_of(named(f"{open_registry}/team/none:1"), nobody, timeout_s=30)


def test_a_registry_with_a_password_lets_in_who_has_logged_in(tmp_path: Path) -> None:
    with image_registry(tmp_path / "registry", for_ann_alone=True) as host:
        with httpx.Client(base_url=f"http://{host}", auth=("ann", "secret-of-ann")) as client:
            pushed = push(client, "team/etl", "1", "first")
        auth = base64.b64encode(b"ann:secret-of-ann").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        image = named(f"{host}/team/etl:1")
        assert digest_of(image, partial(login, folder=tmp_path), timeout_s=30) == pushed
        with pytest.raises(Permanent, match="does not let you see it"):
            digest_of(image, nobody, timeout_s=30)


def test_a_registry_that_is_not_there_is_told() -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        digest_of(named(f"127.0.0.1:{free_port()}/etl:1"), nobody, timeout_s=30)
