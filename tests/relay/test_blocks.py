"""Blocks that a run may see, by name, by id and by a filter, on a real relay."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowgroup.relay.blocks import NotBlocks, Seen, Sight
from flowgroup.settings import RelaySettings
from tests.relay.serving import TOKEN, Relay, an_id, relay

KEY = "the-real-token"
CLOUD_KEY = "pnu_0123456789abcdef0123456789abcdef0123"


def document(slug: str, name: str, data: Any, *, secret_fields: list[str] | None = None, **more: Any) -> dict[str, Any]:
    schema = {"fields": {"secret_fields": secret_fields or [], "properties": {}}}
    return {"id": an_id(), "name": name, "data": data, "block_type": {"slug": slug}, "block_schema": schema, **more}


def secret(name: str, value: Any) -> dict[str, Any]:
    return document("secret", name, {"value": value}, secret_fields=["value"])


WITH_KEYS = [
    secret("copied", KEY),
    secret("inside", f"key={CLOUD_KEY};"),
    document("prefect-cloud-credentials", "cloud", {"workspace": "x"}),
    document("kubernetes-job", "old", {"env": {"PREFECT_API_KEY": "whatever"}}),
    document("my-own", "own", {"prefect_api_key": "********"}, secret_fields=["prefect_api_key"]),
    document("json", "deep", {"value": [{"a": {"b": [KEY]}}]}),
    document(
        "flow-runner",
        "nested",
        {"credentials": {"x": 1}},
        block_document_references={"credentials": {"block_document": {"block_type": {"slug": "prefect-api-key"}}}},
    ),
]
FINE = [secret("db", "hunter22"), document("openai", "ai", {"api_key": "sk-123456"}, secret_fields=["api_key"])]


def _sight(**more: Any) -> Sight:
    return Sight(lambda: (KEY,), **more)


@pytest.mark.parametrize("one", WITH_KEYS, ids=lambda one: one["name"])
def test_a_block_with_a_key_to_prefect_is_not_seen(one: dict[str, Any]) -> None:
    reason = _sight().look(json.dumps(one).encode())
    assert isinstance(reason, str)
    assert one["name"] in reason
    assert not [key for key in (KEY, CLOUD_KEY) if key in reason]


def test_a_filter_shows_no_more_than_names_do() -> None:
    seen = _sight().look(json.dumps([*WITH_KEYS, *FINE]).encode())
    assert isinstance(seen, Seen)
    assert json.loads(seen.body) == FINE
    assert seen.left_out == len(WITH_KEYS)
    assert set(seen.secrets) == {"hunter22", "sk-123456"}


def test_what_was_hidden_by_the_settings_is_not_seen() -> None:
    assert isinstance(_sight(hidden=("secret/d*",)).look(json.dumps(FINE[0]).encode()), str)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[1]", b'"x"', b"[" * 100_000])
def test_what_cannot_be_looked_through_is_not_shown(raw: bytes) -> None:
    with pytest.raises(NotBlocks):
        _sight().look(raw)


def test_secrets_are_found_by_the_schemas_paths() -> None:
    data = {"headers": {"a": "one-secret", "b": "two-secret"}, "auth": {"word": "three"}, "host": "x", "n": "****"}
    one = document("x", "y", data, secret_fields=["headers.*", "auth.word", "n", "gone.deep"])
    seen = _sight().look(json.dumps(one).encode())
    assert isinstance(seen, Seen)
    assert set(seen.secrets) == {"one-secret", "two-secret", "three"}


_PATHS = (
    ("GET", "/block_types/slug/secret/block_documents/name/x"),
    ("GET", "/block_types/slug/secret/block_documents"),
    ("GET", "/block_documents/11111111-1111-1111-1111-111111111111"),
    ("POST", "/block_documents/filter"),
)


@pytest.mark.parametrize(("method", "path"), _PATHS)
@pytest.mark.parametrize("size", ["small", "large"])
async def test_no_way_of_reading_shows_the_key(tmp_path: Path, method: str, path: str, size: str) -> None:
    async with relay(tmp_path) as on:
        padding = "x" * (2_000_000 if size == "large" else 1)
        one = {**WITH_KEYS[0], "padding": padding}
        many = path.endswith(("filter", "block_documents"))
        on.api.answers[method, path] = (200, [one, FINE[0]] if many else one)
        body = {"include_secrets": True} if method == "POST" else None
        answer = await on.child.request(
            method, f"/api{path}?include_secrets=true", json=body, headers={"Accept-Encoding": "gzip"}
        )
        assert answer.status_code == (200 if many else 403)
        assert KEY not in answer.text
        assert not many or answer.json() == [FINE[0]]
        assert "accept-encoding" not in on.api.last().headers


async def _taken(on: Relay, name: str) -> Any:
    """What the API was sent under this name in a record, once it was."""
    async with asyncio.timeout(5):
        while not (found := [body[0] for body in on.api.taken if isinstance(body, list) and name in body[0]]):
            await asyncio.sleep(0.01)
    return found[-1][name]


async def test_the_secrets_that_a_run_has_read_are_masked_in_all_that_it_says(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        path = "/block_types/slug/secret/block_documents/name/db"
        on.api.answers["GET", path] = (200, FINE[0])
        assert (await on.child.get(f"/api{path}?include_secrets=true")).json() == FINE[0]
        said = {"flow_run_id": on.run, "level": 20, "name": "n", "timestamp": "2026-11-28T12:00:00+00:00"}
        assert (await on.child.post("/api/logs/", json=[{**said, "message": "it is hunter22 \x00"}])).status_code == 201
        assert await _taken(on, "message") == "it is ******** \N{REPLACEMENT CHARACTER}"
        state = {"state": {"type": "FAILED", "message": "ValueError: hunter22"}, "force": False}
        assert (await on.child.post(f"/api/flow_runs/{on.run}/set_state", json=state)).status_code == 200
        assert on.api.last().json()["state"]["message"] == "ValueError: ********"
        event = {"event": "e", "resource": {"prefect.resource.id": "x"}, "payload": {"a": ["hunter22"]}}
        assert (await on.child.post("/api/events", json=[event])).status_code == 204
        assert await _taken(on, "payload") == {"a": ["********"]}
        assert "hunter22" not in str([seen.body for seen in on.api.seen])


async def test_the_operators_patterns_are_masked(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=RelaySettings(redact=(r"sk-\d+",))) as on:
        said = {"flow_run_id": on.run, "level": 20, "name": "n", "timestamp": "2026-11-28T12:00:00+00:00"}
        assert (await on.child.post("/api/logs/", json=[{**said, "message": "it is sk-123"}])).status_code == 201
        assert await _taken(on, "message") == "it is ********"


async def _read(on: Relay, slug: str, name: str) -> int:
    path = f"/block_types/slug/{slug}/block_documents/name/{name}"
    on.api.answers["GET", path] = (200, secret(name, "value"))
    return (await on.child.get(f"/api{path}", headers={"Authorization": f"Bearer {TOKEN}"})).status_code


async def test_strict_shows_named_blocks_only_by_whichever_way(tmp_path: Path) -> None:
    settings = RelaySettings(hold_s=2.0, profile="strict", blocks=("secret/mine-*",))
    async with relay(tmp_path, settings=settings) as on:
        assert await _read(on, "secret", "mine-1") == 200
        assert await _read(on, "secret", "db") == 403
        on.api.answers["POST", "/block_documents/filter"] = (200, [secret("mine-2", "v"), FINE[0]])
        shown = (await on.child.post("/api/block_documents/filter", json={})).json()
        assert [one["name"] for one in shown] == ["mine-2"]
        path = f"/block_documents/{an_id()}"
        on.api.answers["GET", path] = (200, FINE[0])
        assert (await on.child.get(f"/api{path}")).status_code == 403
