"""What is said where a pod cannot reach the object store: who it is, which store, and the remedy."""

import pytest

from flowgroup.driver import fetch
from flowgroup.driver.results import GroupStorage
from flowgroup.errors import Refused, Transient
from tests.servers import free_port


class Presigned(GroupStorage):
    """Addresses at a port where nobody listens."""

    _block_type_slug = "presigned-for-tests"

    async def _presigned(self, method: str, path: str) -> str:
        return f"http://127.0.0.1:{free_port()}/bucket/{path}?signature=secret"


async def test_a_result_that_cannot_be_read_or_written_names_the_store_and_the_walls() -> None:
    storage = Presigned(root="s3://bucket/results")
    for asked in (storage.aread_path("x"), storage.awrite_path("x", b"1")):
        with pytest.raises(Transient, match=r"127\.0\.0\.1:\d+ cannot be reached from .*jobs\.egress") as told:
            await asked
        assert "secret" not in str(told.value)


def test_a_bundle_that_cannot_be_fetched_names_the_walls() -> None:
    with pytest.raises(Refused, match=r"does not answer: .*jobs\.egress") as told:
        fetch.fetch(f"http://127.0.0.1:{free_port()}/bundle.zip?signature=secret", limit_bytes=10, timeout_s=0.0)
    assert "secret" not in str(told.value)
