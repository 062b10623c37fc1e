from pathlib import Path
from typing import Any

import pytest

from flowgroup.model.proofs import new_token
from flowgroup.relay.control import is_below
from tests.relay.serving import CONTROL_KEY, TOKEN, an_id, relay, sha256, waits


async def test_only_the_daemon_opens_and_closes(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        path = f"/flowgroup/attempts/{an_id()}"
        body = {"run_id": an_id(), "token_sha256": sha256("x"), "results": None, "ttl_s": 1}
        for caller, status in ((on.child, 401), (on.daemon, 204)):
            assert (await caller.put(path, json=body)).status_code == status
            assert (await caller.delete(path)).status_code == status
        assert (await on.child.put("/flowgroup/attempts", json={"attempts": []})).status_code == 401
        assert (await on.child.get("/flowgroup/metrics")).status_code == 401
        assert "flowgroup_relay_requests" in (await on.daemon.get("/flowgroup/metrics")).text


async def test_the_level_is_exactly_what_is_open(tmp_path: Path) -> None:
    async with relay(tmp_path, opened=False) as on:
        assert (await on.child.get("/flowgroup/health")).json() == {"status": "ok", "known": False, "open": 0}
        one = {"attempt": on.attempt, "run_id": on.run, "token_sha256": sha256(TOKEN), "results": None, "ttl_s": 60}
        assert (await on.daemon.put("/flowgroup/attempts", json={"attempts": [one]})).json() == {"open": 1}
        assert (await on.child.get("/api/health")).status_code == 200
        assert (await on.daemon.put("/flowgroup/attempts", json={"attempts": []})).json() == {"open": 0}
        assert (await on.child.get("/api/health")).status_code == 401


async def test_a_child_whose_daemon_has_said_nothing_yet_waits(tmp_path: Path) -> None:
    async with relay(tmp_path, opened=False) as on:
        assert (await on.daemon.put("/flowgroup/attempts", json={"daemon": "a", "attempts": []})).json() == {"open": 0}
        token = new_token("b", CONTROL_KEY)
        records = {"attempts": [{"token": token, "logs": [{}], "events": []}]}
        assert waits(await on.child.get("/api/health", headers={"Authorization": f"Bearer {token}"}))
        forged = await on.child.get("/api/health", headers={"Authorization": "Bearer b.token"})
        assert forged.status_code == 401
        closed = new_token("a", CONTROL_KEY)
        refused = await on.child.get("/api/health", headers={"Authorization": f"Bearer {closed}"})
        assert refused.status_code == 401
        assert (await on.child.post("/flowgroup/records", json=records)).status_code == 503
        await on.daemon.put("/flowgroup/attempts", json={"daemon": "b", "attempts": []})
        assert (await on.child.post("/flowgroup/records", json=records)).json() == {"refused": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_sha256": "secret"},
        {"run_id": None},
        {"run_id": "not-an-id"},
        {"ttl_s": 0},
        {"ttl_s": "inf"},
        {"ttl_s": -1},
    ],
)
async def test_nonsense_from_the_daemon_is_refused_without_repeating_it(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async with relay(tmp_path) as on:
        answer = await on.open(**wrong)
        assert answer.status_code == 422
        assert "secret" not in answer.text
        assert next(iter(wrong)) in answer.text


async def test_a_child_gets_addresses_below_its_own_folder(tmp_path: Path) -> None:
    async with relay(tmp_path, opened=False) as on:
        await on.open(results=f"file://{tmp_path}/results/flow")
        answer = await on.child.post("/flowgroup/sign", json={"method": "PUT", "key": "a/b.bin"})
        assert answer.json() == {"url": f"{tmp_path}/results/flow/a/b.bin"}
        for key in ("../other/x", "a/../../x", "/x", "a//b", "", "a/./b", "%2e%2e/x", "a\\..\\x", "a?b", "a\nb"):
            refused = await on.child.post("/flowgroup/sign", json={"method": "PUT", "key": key})
            assert refused.status_code in (403, 422)
        assert (await on.child.post("/flowgroup/sign", json={"method": "DELETE", "key": "a"})).status_code == 422
        assert (await on.daemon.post("/flowgroup/sign", json={"method": "GET", "key": "a"})).status_code == 401


async def test_a_run_without_a_folder_gets_no_address(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        answer = await on.child.post("/flowgroup/sign", json={"method": "GET", "key": "a"})
        assert answer.status_code == 403


async def test_addresses_in_an_s3_store_are_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "access",
        "AWS_SECRET_ACCESS_KEY": "the-stores-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    async with relay(tmp_path, opened=False) as on:
        await on.open(results="s3://bucket/results/flow")
        url = (await on.child.post("/flowgroup/sign", json={"method": "GET", "key": "a/b"})).json()["url"]
        assert url.startswith("http://127.0.0.1:9/bucket/results/flow/a/b?")
        assert "the-stores-secret" not in url


@pytest.mark.parametrize(("key", "good"), [("a", True), ("a b/ü.json", True), ("a/", False), ("a#b", False)])
def test_a_key_is_a_plain_path(key: str, good: bool) -> None:
    assert is_below(key) is good
