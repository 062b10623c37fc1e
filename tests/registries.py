"""Real image registries for tests, each with its own folder and a free port, and images for them."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import free_port, running

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
# The password `secret-of-ann`, as htpasswd -B writes it.
_ANN = "ann:$2y$04$bGqht22PHKRISJeUHOl4eOKNlRCLy93YWVpaIAxrgIfv7kJTnGAe6"


@contextlib.contextmanager
def image_registry(folder: Path, *, for_ann_alone: bool = False) -> Iterator[str]:
    """
    An image registry of this machine, with its images below `folder`; yields its host and port.

    The test is skipped where Debian's `docker-registry` is not at hand.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(f"{_ANN}\n")
    port = free_port()
    told: dict[str, object] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if for_ann_alone:
        told["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    (folder / "config.json").write_text(json.dumps(told))  # JSON is YAML too, which it wants
    command = [program, "serve", str(folder / "config.json")]
    with running(command, os.environ, folder / "registry.log", lambda: _listens(port)):
        yield f"127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def push(client: httpx.Client, repository: str, tag: str, text: str) -> str:
    """An image with nothing but a configuration, which `text` makes its own; its digest."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}, "author": text}).encode()
    place = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status().headers["Location"]
    client.put(place, params={**httpx.URL(place).params, "digest": _sha(config)}, content=config).raise_for_status()
    about = {"mediaType": _CONFIG, "digest": _sha(config), "size": len(config)}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": []}
    return put(client, repository, tag, manifest)


def put(client: httpx.Client, repository: str, tag: str, manifest: dict[str, object]) -> str:
    body = json.dumps(manifest).encode()
    headers = {"Content-Type": str(manifest["mediaType"])}
    client.put(f"/v2/{repository}/manifests/{tag}", content=body, headers=headers).raise_for_status()
    return _sha(body)


def _sha(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
