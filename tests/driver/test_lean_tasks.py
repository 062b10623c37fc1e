"""Each change in Prefect on a worker: what it saves, that it means the same, and that it is left out where it does not fit."""

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import serializers, task_engine
from prefect.blocks import core as blocks
from prefect.client import orchestration
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import SyncClientContext
from prefect.filesystems import WritableFileSystem
from prefect.results import ResultStore
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowgroup.driver import lean_tasks


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for holder, name in (
        (orchestration, "ssl"),
        (serializers, "from_qualified_name"),
        (blocks, "slugify"),
        (task_engine, "transaction"),
        (task_engine, "atransaction"),
        (lean_tasks, "_keeps_clients"),
    ):
        monkeypatch.setattr(holder, name, getattr(holder, name))
    lean_tasks._clients.clear()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        yield
    for kept in lean_tasks._clients.values():
        kept.client._client.close()
    lean_tasks._clients.clear()


class Counting:
    def __init__(self, stock: Any) -> None:
        self.stock, self.calls = stock, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self.stock(*args, **named)


def test_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(ssl.create_default_context)
    monkeypatch.setattr(ssl, "create_default_context", counting)
    lean_tasks.keep_ssl_contexts()
    with SyncPrefectClient("http://127.0.0.1:1/api"), SyncPrefectClient("https://127.0.0.1:1/api"):
        assert counting.calls == 1


class Storage(WritableFileSystem):
    """Notes what is read of it; nothing is there."""

    def read_path(self, path: str, **_: Any) -> bytes:  # type: ignore[override]
        _read.append(path)
        raise ValueError("nothing")

    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        pass


_read: list[str] = []


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("is_lean", [True, False])
def test_only_a_task_that_keeps_its_result_looks_for_one(
    monkeypatch: pytest.MonkeyPatch, keeps: bool, is_lean: bool
) -> None:
    _read.clear()
    if is_lean:
        lean_tasks.read_what_may_be_kept()
    store = ResultStore(result_storage=Storage())
    with task_engine.transaction(
        key="k",
        store=store,
        overwrite=False,
        logger=None,
        write_on_commit=keeps,
        isolation_level=None,
    ) as transaction:
        assert not transaction.is_committed()
    assert _read == ([] if is_lean and not keeps else ["k"])


def test_tasks_of_one_run_share_a_client_and_those_of_another_do_not() -> None:
    lean_tasks.keep_clients()
    found = []
    for owner in ("one", "one", "two"):
        with lean_tasks.client_of(owner), SyncClientContext.get_or_create() as context:
            assert get_client(sync_client=True) is context.client
            found.append(context.client)
    assert found[0] is found[1]
    assert found[0] is not found[2]
    assert SyncClientContext.get() is None


def test_a_client_that_a_task_ended_is_made_again() -> None:
    lean_tasks.keep_clients()
    with lean_tasks.client_of("one"):
        ended = get_client(sync_client=True)
        ended.__exit__(None, None, None)
    with lean_tasks.client_of("one"), get_client(sync_client=True) as again:
        assert again is not ended


def test_clients_of_runs_that_are_long_over_go(monkeypatch: pytest.MonkeyPatch) -> None:
    lean_tasks.keep_clients()
    monkeypatch.setattr(lean_tasks, "_CLIENTS", 2)
    for owner in ("one", "two", "three"):
        with lean_tasks.client_of(owner):
            pass
    assert list(lean_tasks._clients) == ["two", "three"]


def test_prefects_own_encoder_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(serializers.from_qualified_name)
    monkeypatch.setattr(serializers, "from_qualified_name", counting)
    lean_tasks.keep_encoders()
    serializer = serializers.JSONSerializer()
    assert serializer.dumps({"a": 1}) == serializer.dumps({"a": 1})
    before = counting.calls
    serializer.dumps({"a": 2})
    assert counting.calls - before == 1  # `json` itself, which is no name of Prefect's


def test_a_blocks_slug_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(blocks.slugify)
    monkeypatch.setattr(blocks, "slugify", counting)
    lean_tasks.keep_slugs()
    assert [blocks.slugify("Größer Als") for _ in range(3)] == ["grosser-als"] * 3
    assert counting.calls == 1


@pytest.mark.parametrize(
    ("holder", "name", "change"),
    [
        (orchestration, "ssl", lean_tasks.keep_ssl_contexts),
        (serializers, "from_qualified_name", lean_tasks.keep_encoders),
        (blocks, "slugify", lean_tasks.keep_slugs),
        (SyncClientContext, "get_or_create", lean_tasks.keep_clients),
    ],
)
def test_a_change_that_does_not_fit_is_left_out(
    monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, change: Any
) -> None:
    monkeypatch.setattr(lean_tasks.CHANGES, "_fitting", None)
    assert change in lean_tasks.CHANGES.fitting()
    monkeypatch.setattr(lean_tasks.CHANGES, "_fitting", None)
    monkeypatch.delattr(holder, name)
    assert lean_tasks.CHANGES.fitting() == tuple(kept for kept in lean_tasks.CHANGES.all() if kept is not change)


def test_without_the_change_prefect_makes_its_own_client() -> None:
    with lean_tasks.client_of("one"):
        assert SyncClientContext.get() is None
