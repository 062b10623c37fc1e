"""Object storage: on this machine, and on a real S3 server."""

import contextlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flowgroup.edge import store
from flowgroup.errors import Permanent, Refused, Transient


@pytest.fixture
def no_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which no store has been used yet."""
    store.forget()
    yield monkeypatch
    store.forget()


@pytest.fixture
def bucket(s3: dict[str, str], no_s3: pytest.MonkeyPatch) -> str:
    for name, value in s3.items():
        no_s3.setenv(name, value)
    return "s3://flowgroup"


def test_join_makes_addresses() -> None:
    assert store.join("s3://b/x/", "flows", "/a.zip") == "s3://b/x/flows/a.zip"
    assert store.join("file:///tmp/s", "a") == "file:///tmp/s/a"


@pytest.mark.parametrize("address", ["/tmp/x", "ftp://x", "s3://", "file://relative/x", ""])
def test_what_is_no_store_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="file:///"):
        store.checked(address)


def test_home_is_resolved_and_odd_paths_survive(tmp_path: Path) -> None:
    assert store.checked("file://~/s") == f"file://{Path.home()}/s"
    odd = tmp_path / "ü b%20c#?"
    assert store.local_path(store.checked(store.local_address(odd))) == odd


async def test_files_are_stores_too(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/a/b.zip"
    assert await store.head(address) is None
    with pytest.raises(Refused, match="no such object"):
        await store.get(address)
    await store.put(address, b"one")
    await store.put(address, b"two")
    assert await store.get(address) == b"two"
    assert await store.head(address) == 3
    assert await store.presign(address, "GET", 60) == f"{tmp_path}/a/b.zip"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.zip"]
    with pytest.raises(Refused, match="3 bytes, more than the 2"):
        await store.get(address, limit_bytes=2)


async def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Permanent, match=f"cannot write file://{tmp_path}/file/x"):
        await store.put(f"file://{tmp_path}/file/x", b"")


@pytest.mark.real
async def test_an_s3_server_keeps_objects_and_signs_addresses(bucket: str) -> None:
    address = store.join(bucket, "some folder", "ü%c.zip")
    assert await store.head(address) is None
    await store.put(address, b"hello")
    assert await store.head(address) == 5
    assert await store.get(address) == b"hello"
    with pytest.raises(Refused, match="5 bytes, more than the 4"):
        await store.get(address, limit_bytes=4)
    url = await store.presign(address, "GET", 60)
    with contextlib.closing(urllib.request.urlopen(url)) as answer:
        assert answer.read() == b"hello"
    other = store.join(bucket, "put.bin")
    async with httpx.AsyncClient() as client:
        answer = await client.put(await store.presign(other, "PUT", 60), content=b"12")
        assert answer.status_code == 200
        assert (await client.get(url.replace("Signature=", "Signature=0"))).status_code == 403
    assert await store.get(other) == b"12"


@pytest.mark.real
async def test_what_an_s3_server_refuses_is_told(bucket: str, no_s3: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=r"cannot read s3://flowgroup/missing\.zip: there is no such object"):
        await store.get("s3://flowgroup/missing.zip")
    with pytest.raises(Refused, match="cannot write s3://nowhere/x: there is no such object or bucket"):
        await store.put("s3://nowhere/x", b"")
    no_s3.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store.forget()
    with pytest.raises(Refused, match=r"access denied.*check the store's credentials"):
        await store.put("s3://flowgroup/x", b"")


async def test_a_store_that_is_away_is_transient(no_s3: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        no_s3.setenv(name, value)
    with pytest.raises(Transient, match="cannot read s3://flowgroup/x"):
        await store.get("s3://flowgroup/x")


async def test_a_wrong_setting_is_refused(no_s3: pytest.MonkeyPatch) -> None:
    no_s3.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(Refused, match=r"Account must be specified.*AZURE_"):
        await store.get("az://container/x")
    no_s3.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    no_s3.setenv("AWS_ACCESS_KEY_ID", "a")
    no_s3.setenv("AWS_SECRET_ACCESS_KEY", "b")
    no_s3.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(Refused, match="AWS_"):
        await store.get("s3://bucket/x")
