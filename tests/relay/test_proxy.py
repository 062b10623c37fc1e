import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr

from flowgroup.settings import RelaySettings
from tests.fakes.upstream import Failure
from tests.relay.serving import TOKEN, Relay, an_id, relay, waits

_REAL = "the-real-token"


async def test_a_call_reaches_the_api_with_the_real_token_and_the_childs_user_agent(tmp_path: Path) -> None:
    async with relay(tmp_path, secrets={"api_key": _REAL, "custom_headers": {"X-Proxy": "pass"}}) as on:
        body = b'{"flow_version": "1"}'
        sent = {"X-PREFECT-API-VERSION": "0.8.4", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=x"}
        answer = await on.child.patch(f"/api/flow_runs/{on.run}?x=%20y", content=body, headers=sent)
        assert answer.status_code == 200
        seen = on.api.last()
        assert (seen.method, seen.path, seen.body) == ("PATCH", f"/flow_runs/{on.run}", body)
        assert seen.query == "x=%20y"
        assert seen.headers["authorization"] == f"Bearer {_REAL}"
        assert seen.headers["user-agent"] == "prefect/3.8.8 (API 0.8.4)"
        assert seen.headers["x-prefect-api-version"] == "0.8.4"
        assert seen.headers["x-proxy"] == "pass"
        assert seen.headers["content-length"] == str(len(body))
        assert on.api.url.endswith(f"{seen.headers['host']}/api")
        assert not {"cookie", "x-forwarded-for", "forwarded"} & set(seen.headers)
        assert TOKEN not in str(seen)


async def test_the_auth_string_wins_over_the_key(tmp_path: Path) -> None:
    secrets = {"api_key": "key", "api_auth_string": "user:word"}
    async with relay(tmp_path, secrets=secrets, token="Basic dXNlcjp3b3Jk") as on:
        assert (await on.child.get("/api/health")).status_code == 200


async def test_a_child_may_show_its_token_as_an_auth_string(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        for auth in (("", TOKEN), ("user", TOKEN)):
            answer = await on.child.get("/api/health", auth=httpx.BasicAuth(*auth))
            assert answer.status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic !!", "Basic d3Jvbmc=", "Digest x"])
async def test_without_a_good_token_nothing_passes(tmp_path: Path, header: str) -> None:
    async with relay(tmp_path) as on:
        for path in ("/api/health", f"/api/flow_runs/{on.run}"):
            answer = await on.child.get(path, headers={"Authorization": header})
            assert answer.status_code == 401
        assert on.api.seen == []


async def test_a_relay_that_was_just_started_refuses_nobody(tmp_path: Path) -> None:
    async with relay(tmp_path, opened=False) as on:
        assert waits(await on.child.get("/api/health"))
        await on.open()
        assert (await on.child.get("/api/health")).status_code == 200


async def test_a_closed_attempt_may_not_speak(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        await on.daemon.delete(f"/flowgroup/attempts/{on.attempt}")
        answer = await on.child.get("/api/health")
        assert answer.status_code == 401
        assert "not open" in answer.json()["detail"]


async def test_another_runs_states_and_logs_are_refused_by_name(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        other = an_id()
        on.api.flow_runs[other] = None
        state = await on.child.post(f"/api/flow_runs/{other}/set_state", json={"state": {"type": "CANCELLED"}})
        logs = await on.child.post("/api/logs/", json=[{"flow_run_id": on.run}, {"flow_run_id": other}])
        read = await on.child.post("/api/logs/filter", json={"logs": {"flow_run_id": {"any_": [other]}}})
        for answer in (state, logs, read):
            assert answer.status_code == 403
            assert other in answer.json()["detail"]
        assert {seen.path for seen in on.api.seen} == {f"/flow_runs/{other}"}  # the look-up of its owner


async def test_a_run_that_the_run_made_belongs_to_it(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        sub = an_id()
        on.api.answers["POST", "/flow_runs/"] = (201, {"id": sub, "padding": "x" * 2000})
        made = await on.child.post("/api/flow_runs/", json={"flow_id": an_id()}, headers={"Accept-Encoding": "gzip"})
        assert made.json()["id"] == sub
        assert (await on.child.post(f"/api/flow_runs/{sub}/set_state", json={})).status_code == 200


async def test_another_runs_idempotency_key_gives_nobody_that_run(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        other = an_id()
        on.api.flow_runs[other] = None
        on.api.answers["POST", "/flow_runs/"] = (200, {"id": other})  # it was there already
        await on.child.post("/api/flow_runs/", json={"flow_id": an_id(), "idempotency_key": "scheduled x"})
        assert (await on.child.post(f"/api/flow_runs/{other}/set_state", json={})).status_code == 403


async def test_after_a_restart_the_owner_is_found_by_the_chain_of_parents(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        child, grandchild, task, subtask = an_id(), an_id(), an_id(), an_id()
        on.api.flow_runs |= {grandchild: subtask, child: task}
        on.api.task_runs |= {subtask: child, task: on.run}
        for _ in range(2):
            assert (await on.child.post(f"/api/flow_runs/{grandchild}/set_state", json={})).status_code == 200
        looked = [seen.path for seen in on.api.seen if seen.method == "GET"]
        assert len(looked) == 4  # once, and remembered
        assert (await on.child.post(f"/api/task_runs/{task}/set_state", json={})).status_code == 200


async def test_a_chain_without_end_is_given_up(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        loop, task = an_id(), an_id()
        on.api.flow_runs[loop], on.api.task_runs[task] = task, loop
        assert (await on.child.post(f"/api/flow_runs/{loop}/set_state", json={})).status_code == 403
        assert len(on.api.seen) < 20


async def test_when_the_owner_cannot_be_asked_the_childwaits(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.failure = Failure(500)
        assert waits(await on.child.post(f"/api/flow_runs/{an_id()}/set_state", json={}))


async def test_task_runs_are_claimed_by_their_first_log_line(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        task = an_id()
        for _ in range(2):
            records = [{"flow_run_id": on.run, "task_run_id": task}]
            assert (await on.child.post("/api/logs/", json=records)).status_code == 201
        on.api.task_runs[task] = an_id()  # but acting on it is another matter
        assert (await on.child.post(f"/api/task_runs/{task}/set_state", json={})).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/api/flow_runs/%2e%2e/admin/settings",
        "/api//health",
        "/api/flow_runs%2f..",
        "/%61pi/health",
        "/api/variables/name/%252e",
    ],
)
async def test_odd_paths_never_reach_the_api(tmp_path: Path, path: str) -> None:
    async with relay(tmp_path) as on:
        answer = await _raw(on, path)
        assert answer.split(b" ", 2)[1] in (b"400", b"403")
        assert on.api.seen == []


async def _raw(on: Relay, target: str) -> bytes:
    """A call whose path no client library has tidied up."""
    reader, writer = await asyncio.open_unix_connection(str(on.socket))
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode()
    )
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_bodies_have_a_limit_and_a_plain_encoding(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=RelaySettings(max_body_bytes=1000)) as on:
        large = json.dumps([{"message": "x" * 2000}])
        assert (await on.child.post("/api/logs/", content=large)).status_code == 413

        async def chunks() -> Any:
            for _ in range(20):
                yield b" " * 100

        assert (await on.child.post("/api/logs/", content=chunks())).status_code == 413
        packed = await on.child.post("/api/logs/", content=b"x", headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415
        assert (await on.child.post("/api/logs/", content=b"{")).status_code == 400
        assert on.api.seen == []


async def test_a_chunked_body_goes_on_with_its_length(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:

        async def chunks() -> Any:
            yield b'{"a":'
            yield b"1}"

        assert (await on.child.post("/api/variables/", content=chunks())).status_code == 200
        assert on.api.last().headers["content-length"] == "7"
        assert "transfer-encoding" not in on.api.last().headers


async def test_what_the_api_says_about_a_call_is_passed_on(tmp_path: Path) -> None:
    async with relay(tmp_path) as on:
        on.api.answers["POST", "/variables/"] = (409, {"detail": "exists"})
        answer = await on.child.post("/api/variables/", json={})
        assert (answer.status_code, answer.json()) == (409, {"detail": "exists"})
        on.api.answers["PATCH", "/variables/name/x"] = (204, None)
        gone = await on.child.patch("/api/variables/name/x", json={})
        assert (gone.status_code, gone.content) == (204, b"")


async def test_the_real_token_is_in_no_log_answer_or_repr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logged:
        async with relay(tmp_path, secrets={"api_key": _REAL, "custom_headers": {"X-Proxy": "secret-header"}}) as on:
            said = []
            for status in (200, 401, 500, 503):
                on.api.failure = Failure(status, headers={"Retry-After": "1"}) if status != 200 else None
                for path in ("/api/health", "/api/admin/settings", f"/api/flow_runs/{on.run}"):
                    answer = await on.child.get(path)
                    said.append(f"{answer.headers}{answer.text}")
    everything = f"{said}{logged}{caplog.text}"
    assert _REAL not in everything
    assert "secret-header" not in everything
    assert TOKEN not in everything


def test_secrets_do_not_print() -> None:
    from flowgroup.relay.upstream import Secrets

    secrets = Secrets(
        api_url="http://x/api", api_key=SecretStr(_REAL), custom_headers={"a": _REAL}, control_key="control-key-123456"
    )
    assert _REAL not in repr(secrets) + str(secrets)
    assert "control-key-123456" not in repr(secrets)


async def test_a_rotated_token_is_taken_from_its_file_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("the-old-token")
    async with relay(tmp_path, secrets={"api_key": None, "api_key_file": str(file)}) as on:
        assert waits(await on.child.get("/api/health"))  # the API does not take the old one
        file.write_text(_REAL)
        assert (await on.child.get("/api/health")).status_code == 200
        assert (await on.child.post("/flowgroup/records", json=_records(on))).json() == {"refused": 0}


def _records(on: Relay) -> dict[str, Any]:
    return {"attempts": [{"token": TOKEN, "logs": [{"flow_run_id": on.run, "message": "x"}], "events": []}]}


async def test_the_real_token_is_in_no_byte_that_leaves_but_to_the_api(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers, logs, metrics and the text of every object that the relay is made of."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "key"
    file.write_text(f"{_REAL}\n")
    said: list[str] = []
    with structlog.testing.capture_logs() as logged:
        async with relay(tmp_path, secrets={"api_key": None, "api_key_file": str(file)}) as on:
            for status in (200, 401, 403, 429, 500):
                on.api.failure = Failure(status) if status != 200 else None
                for path in ("/api/health", "/flowgroup/health", "/flowgroup/metrics", "/livez", "/api/nothing"):
                    for caller in (on.child, on.daemon):
                        answer = await caller.get(path)
                        said.append(f"{answer.headers}{answer.text}")
            file.unlink()
            said.append((await on.child.get("/api/health")).text)
    everything = f"{said}{logged}{caplog.text}".encode()
    assert b"flowgroup_relay_requests" in everything
    assert b"credentials_not_taken" in everything
    for secret in (_REAL, TOKEN, "control-key-of-tests"):
        assert secret.encode() not in everything
