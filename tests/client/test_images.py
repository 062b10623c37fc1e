"""Which images of a deployment are pinned, and what is said of the others."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest

from flowgroup.client import images
from flowgroup.edge.registry.login import Login
from flowgroup.errors import Transient
from flowgroup.model.image import ImageName

DIGEST = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64


class Registries:
    """What all registries have; one that has nothing does not answer."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.asked: list[str] = []
        self.slow_s = 0.0

    def digest_of(self, image: ImageName, logins: Any, *, timeout_s: float) -> str:
        name = f"{image.host}/{image.repository}:{image.tag}"
        self.asked.append(name)
        time.sleep(self.slow_s)
        found = self.digests.get(name)
        if found is None:
            raise Transient("its registry cannot be reached (refused)")
        return found


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Registries:
    fake = Registries()
    monkeypatch.setattr(images, "digest_of", fake.digest_of)
    return fake


def test_the_tag_stays_for_people_and_the_digest_is_added(registries: Registries, tmp_path: Path) -> None:
    registries.digests["r.example/etl:1"] = DIGEST
    said = {"image": "r.example/etl:1", "workers": 2}
    assert images.pinned(said, tmp_path) == {"image": f"r.example/etl:1@{DIGEST}", "workers": 2}
    assert said["image"] == "r.example/etl:1"


def test_images_of_groups_are_pinned_and_one_name_is_asked_for_once(registries: Registries, tmp_path: Path) -> None:
    registries.digests |= {"r.example/etl:1": DIGEST, "r.example/gpu:latest": OTHER}
    groups = [{"name": "a", "image": "r.example/etl:1"}, {"name": "b", "image": "r.example/gpu"}, {"name": "c"}]
    found = images.pinned({"image": "r.example/etl:1", "worker_groups": groups}, tmp_path)
    assert found["image"] == f"r.example/etl:1@{DIGEST}"
    pinned = [group.get("image") for group in found["worker_groups"]]
    assert pinned == [f"r.example/etl:1@{DIGEST}", f"r.example/gpu@{OTHER}", None]
    assert sorted(registries.asked) == ["r.example/etl:1", "r.example/gpu:latest"]


@pytest.mark.parametrize("said", [{"workers": 1}, {"image": f"r.example/etl:1@{DIGEST}"}, {"image": f"etl@{DIGEST}"}])
def test_what_has_a_digest_or_no_image_is_left_alone(
    said: dict[str, Any], registries: Registries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert images.pinned(said, tmp_path) == said
    assert (registries.asked, caplog.messages) == ([], [])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("r.example/none:1", r"its registry cannot be reached \(refused\)"),
        ("etl:1", "its name does not say which registry it comes from"),
        ("r.example/{{ prefect.variables.image }}", "known only once a run is planned"),
    ],
)
def test_a_tag_that_nobody_tells_stays_and_one_line_says_so(
    image: str, reason: str, registries: Registries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flowgroup.deploy"):
        assert images.pinned({"image": image}, tmp_path) == {"image": image}
    (line,) = caplog.messages
    assert line.startswith(f"The image {image} is not pinned to a digest: ")
    assert "\n" not in line
    assert re.search(reason, line)


def test_an_environment_that_no_client_can_be_made_in_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://proxy")
    said = {"image": "r.example/etl:1"}
    assert images.pinned(said, tmp_path) == said
    assert "its registry cannot be asked (" in caplog.text


@pytest.mark.timed
def test_a_deploy_does_not_wait_for_a_registry_that_does_not_answer(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(images, "TIMEOUT_S", 0.1)
    registries.slow_s = 5.0
    before = time.monotonic()
    said = {"image": "r.example/etl:1", "worker_groups": [{"name": "a", "image": "r.example/gpu:1"}]}
    assert images.pinned(said, tmp_path) == said
    assert time.monotonic() - before < 4
    assert [line.partition(": ")[2][:39] for line in caplog.messages] == ["its registry does not answer in time. R"] * 2


def test_the_logins_are_those_of_dockers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"r.example": {"identitytoken": "identity"}}}')
    found: list[Login | None] = []

    def ask(image: ImageName, logins: Any, *, timeout_s: float) -> str:
        found.append(logins(image.host))
        return DIGEST

    monkeypatch.setattr(images, "digest_of", ask)
    images.pinned({"image": "r.example/etl:1"}, tmp_path)
    assert found == [Login(None, "identity")]
