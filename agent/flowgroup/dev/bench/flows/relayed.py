"""What a run can measure of its own way to the API. Each flow prints its figures as one line of JSON."""

import json
import time
import uuid
from datetime import UTC, datetime

import httpx
from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

_EVERY_S = 0.1


@flow(log_prints=True)
def asks(direct: str, count: int = 300) -> None:
    """The same call in turn, straight to the server at `direct` and by way of desk and relay: what that adds, in ms."""
    path = f"/flow_runs/{flow_run.get_id()}"
    with (
        httpx.Client(base_url=direct, trust_env=False, timeout=60) as straight,
        httpx.Client(base_url=str(get_current_settings().api.url), headers=_shown(), trust_env=False) as relayed,
    ):
        took = [(_timed(straight, path), _timed(relayed, path)) for _ in range(count + 1)]
    print(json.dumps([round(1000 * (by - at), 3) for at, by in took[1:]]))


@flow(log_prints=True)
def floods(relay: str, seconds: float = 20.0, lines_per_s: int = 2000) -> None:
    """Lines as a desk sends them, to the relay's socket: how long each batch took to be acknowledged, in ms."""
    lines = round(lines_per_s * _EVERY_S)
    desk, took, began = uuid.uuid4().hex, [], time.monotonic()
    transport = httpx.HTTPTransport(uds=relay)
    with httpx.Client(transport=transport, base_url="http://relay", timeout=60) as client:
        for number in range(1, round(seconds / _EVERY_S) + 1):
            body = json.dumps({"desk": desk, "number": number, "attempts": [_said(number, lines)]})
            time.sleep(max(0.0, began + number * _EVERY_S - time.monotonic()))
            at = time.perf_counter()
            client.post("/flowgroup/records", content=body).raise_for_status()
            took.append(round(1000 * (time.perf_counter() - at), 3))
    print(json.dumps(took))


def _timed(client: httpx.Client, path: str) -> float:
    at = time.perf_counter()
    client.get(path).raise_for_status()
    return time.perf_counter() - at


def _said(number: int, lines: int) -> dict[str, object]:
    at, run = datetime.now(UTC).isoformat(), str(flow_run.get_id())
    logs = [
        {"name": "flow", "level": 20, "message": f"{number} {one} {'x' * 100}", "timestamp": at, "flow_run_id": run}
        for one in range(lines)
    ]
    return {"token": _token(), "logs": logs}


def _shown() -> dict[str, str]:
    return {"Authorization": f"Bearer {_token()}"}


def _token() -> str:
    key = get_current_settings().api.key
    return key.get_secret_value() if key else ""
