"""A real flow, against a real Prefect server, through a real relay."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.dev.patient import Patient
from tests.relay.serving import CONTROL_KEY, TOKEN, sha256
from tests.relay.test_process import relay_process
from tests.servers import free_port, prefect_server, wait_until

pytestmark = pytest.mark.real
_WORD = "user:the-real-word"
_BASIC = "dXNlcjp0aGUtcmVhbC13b3Jk"


@dataclass
class Real:
    """`api` is the server itself, with its own credentials; `relay` the relay's address."""

    api: httpx.Client
    relay: str

    def new_run(self, state: str) -> str:
        flow = self.api.post("/flows/", json={"name": "relay-main"}).json()["id"]
        made: str = self.api.post("/flow_runs/", json={"flow_id": flow, "state": {"type": state}}).json()["id"]
        return made

    def state(self, run: str) -> str:
        name: str = self.api.get(f"/flow_runs/{run}").json()["state"]["type"]
        return name

    def logs(self, run: str) -> list[str]:
        found = self.api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run]}}}).json()
        return [record["message"] for record in found]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    folder = tmp_path_factory.mktemp("relay-prefect")
    port = free_port()
    with prefect_server(folder, env={"PREFECT_SERVER_API_AUTH_STRING": _WORD}) as url:
        secrets = {"api_url": url, "api_key": None, "api_auth_string": _WORD}
        with (
            relay_process("--tcp", f"127.0.0.1:{port}", secrets=secrets),
            httpx.Client(base_url=url, auth=httpx.BasicAuth(*_WORD.split(":")), timeout=90, transport=Patient()) as api,
        ):
            wait_until(lambda: _answers(port), timeout_s=20, what="the relay answers")
            _furnish(api)
            yield Real(api, f"http://127.0.0.1:{port}")


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/flowgroup/health").is_success
    except httpx.TransportError:
        return False


def _furnish(api: httpx.Client) -> None:
    """What the flow expects to be there."""
    kind = api.get("/block_types/slug/secret").json()["id"]
    schemas = api.post("/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [kind]}}}).json()
    limits = [{"name": "relay-slots", "limit": 2}, {"name": "relay-rate", "limit": 2, "slot_decay_per_second": 1.0}]
    flow = api.post("/flows/", json={"name": "relay-main"}).json()["id"]
    document = {"name": "relay-secret", "data": {"value": "hidden"}, "block_type_id": kind}
    for path, body in [
        ("/block_documents/", {**document, "block_schema_id": schemas[0]["id"]}),
        ("/concurrency_limits/", {"tag": "relay-test", "concurrency_limit": 2}),
        *(("/v2/concurrency_limits/", limit) for limit in limits),
        ("/deployments/", {"name": "relay", "flow_id": flow}),
    ]:
        api.post(path, json=body).raise_for_status()


def _run_child(real: Real, folder: Path, run: str, other: str) -> subprocess.CompletedProcess[str]:
    level = [
        {"attempt": str(uuid.uuid4()), "run_id": run, "token_sha256": sha256(TOKEN), "results": None, "ttl_s": 100}
    ]
    control = {"Authorization": f"Bearer {CONTROL_KEY}"}
    httpx.put(f"{real.relay}/flowgroup/attempts", json={"attempts": level}, headers=control).raise_for_status()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{real.relay}/api",
        "PREFECT_API_KEY": TOKEN,
        "PREFECT_API_AUTH_STRING": TOKEN,  # Prefect's websockets know only this one
        "TEST_RUN": run,
        "TEST_OTHER_RUN": other,
    }
    program = str(Path(__file__).with_name("real_flow.py"))
    return subprocess.run(
        [sys.executable, program], env=env, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )


def _resume_when_paused(real: Real, run: str) -> None:
    for _ in range(600):
        if real.state(run) == "PAUSED":
            real.api.post(f"/flow_runs/{run}/resume", json={})
            return
        time.sleep(0.1)


def test_what_ordinary_flows_do_works_through_the_relay(real: Real, tmp_path: Path) -> None:
    run, other = real.new_run("PENDING"), real.new_run("RUNNING")
    resuming = threading.Thread(target=_resume_when_paused, args=(real, run))
    resuming.start()
    done = _run_child(real, tmp_path, run, other)
    resuming.join()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.rpartition("MADE ")[2])
    _check_made(told["made"], other)
    _check_at_api(real, run, told["made"]["deployed"])
    assert real.state(other) == "RUNNING"
    assert real.logs(other) == []
    assert "hook ran" in done.stdout
    for secret in (_WORD, _BASIC):
        assert secret not in done.stdout + done.stderr


def _check_made(made: dict[str, Any], other: str) -> None:
    assert made["tasks"] == [1, 2, 1, 1, 5]
    assert made["submitted"] == [2, 2, 2]
    assert made["secret"] == "hidden"
    assert made["variable"] == {"a": 1}
    assert all(said.startswith("403") for said in made["refused"])
    assert all(other in said for said in made["refused"][:3])
    assert "does not belong to this run" in made["refused"][0]


def _check_at_api(real: Real, run: str, deployed: str) -> None:
    assert real.state(run) == "COMPLETED"
    assert real.state(deployed) == "SCHEDULED"
    of_run = {"flow_runs": {"id": {"any_": [run]}}}
    wait_until(lambda: "from the flow" in real.logs(run), timeout_s=10, what="the log arrives")
    wait_until(
        lambda: len([t for t in _task_runs(real, of_run) if t["state_type"] == "COMPLETED"]) >= 9,
        timeout_s=20,
        what="the task runs' states arrive",
    )
    keys = {artifact["key"] for artifact in real.api.post("/artifacts/filter", json=of_run).json()}
    assert keys >= {"relay-note", "relay-progress"}
    wanted = {"filter": {"event": {"name": ["relay.tested"]}, "occurred": {"since": "2020-01-01T00:00:00Z"}}}
    wait_until(
        lambda: real.api.post("/events/filter", json=wanted).json()["total"] == 1,
        timeout_s=10,
        what="the event arrives",
    )


def _task_runs(real: Real, of_run: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = real.api.post("/task_runs/filter", json=of_run).json()
    return found


def _opened(real: Real, run: str) -> httpx.Client:
    """A child of this run, as the relay knows it."""
    opening = {"run_id": run, "token_sha256": sha256(TOKEN + run), "results": None, "ttl_s": 100}
    control = {"Authorization": f"Bearer {CONTROL_KEY}"}
    httpx.put(f"{real.relay}/flowgroup/attempts/{uuid.uuid4()}", json=opening, headers=control).raise_for_status()
    shown = {"Authorization": f"Bearer {TOKEN}{run}", "User-Agent": "prefect/3.8.8 (API 0.8.4)"}
    return httpx.Client(base_url=f"{real.relay}/api", headers=shown, timeout=30)


def _slots(real: Real, limit: str) -> int:
    return int(real.api.get(f"/v2/concurrency_limits/{limit}").json()["active_slots"])


def _ended(real: Real, lease: str) -> None:
    """The server takes a lease back, as it does with one that nobody renewed in time."""
    real.api.post("/v2/concurrency_limits/decrement-with-lease", json={"lease_id": lease}).raise_for_status()


def test_a_lease_that_ended_meanwhile_is_taken_again_and_given_back(real: Real) -> None:
    real.api.post("/v2/concurrency_limits/", json={"name": "relay-leased", "limit": 1}).raise_for_status()
    with _opened(real, real.new_run("RUNNING")) as child:
        asked = {"names": ["relay-leased"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
        lease = child.post("/v2/concurrency_limits/increment-with-lease", json=asked).json()["lease_id"]
        _ended(real, lease)
        assert _slots(real, "relay-leased") == 0
        renewal = f"/v2/concurrency_limits/leases/{lease}/renew"
        assert child.post(renewal, json={"lease_duration": 60}).status_code == 204
        wait_until(lambda: _slots(real, "relay-leased") == 1, timeout_s=20, what="the slot is taken again")
        assert child.post(renewal, json={"lease_duration": 60}).status_code == 204
        child.post("/v2/concurrency_limits/decrement-with-lease", json={"lease_id": lease}).raise_for_status()
        assert _slots(real, "relay-leased") == 0


def test_a_deployments_slot_that_was_lost_is_taken_again_and_given_back_at_the_runs_end(real: Real) -> None:
    flow = real.api.post("/flows/", json={"name": "relay-main"}).json()["id"]
    made = {"name": "relay-limited", "flow_id": flow, "concurrency_limit": 1}
    deployment = real.api.post("/deployments/", json=made).json()
    limit = deployment["global_concurrency_limit"]["name"]
    run = real.api.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).json()["id"]

    def becomes(state: str) -> dict[str, Any]:
        answer = real.api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": state}, "force": False}).json()
        assert answer["status"] == "ACCEPT", answer
        told: dict[str, Any] = answer["state"]["state_details"]
        return told

    becomes("PENDING")
    lease = becomes("RUNNING")["deployment_concurrency_lease_id"]
    assert _slots(real, limit) == 1
    _ended(real, lease)
    with _opened(real, run) as child:
        for _ in range(3):
            answer = child.post(f"/v2/concurrency_limits/leases/{lease}/renew", json={"lease_duration": 300})
            assert answer.status_code == 204
            wait_until(lambda: _slots(real, limit) == 1, timeout_s=20, what="the slot is taken again")
    becomes("COMPLETED")
    assert _slots(real, limit) == 0
