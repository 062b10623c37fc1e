"""Flow runs as the benchmark asks for them and reads them back: by the API's own timestamps."""

import time
from datetime import datetime
from typing import Any

import httpx

from flowgroup.errors import Permanent

_RUN_TIMEOUT_S = 120.0
_LOOK_S = 0.1
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
OURS = "bench"
"""A query that nobody reads: it tells the benchmark's own calls from the others in the server's access log."""


def post(api: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    return _told(api, api.build_request("POST", path, json=body, params={OURS: ""}))


def get(api: httpx.Client, path: str, **params: str) -> Any:
    return _told(api, api.build_request("GET", path, params={OURS: "", **params}))


def start(api: httpx.Client, deployment: str) -> str:
    """Ask for a run now; its id."""
    run = post(api, f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    return str(run["id"])


def ended(api: httpx.Client, run: str) -> bool:
    """Whether it has completed. Raises Permanent when it ended in any other way."""
    found = get(api, f"/flow_runs/{run}")
    if found["state_type"] in _FINAL and found["state_type"] != "COMPLETED":
        raise Permanent(f"{found['name']} is {found['state_name']}: {found['state']['message']}")
    return bool(found["state_type"] == "COMPLETED")


def wait(api: httpx.Client, runs: list[str]) -> None:
    """Until all have completed. Raises Permanent."""
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    for run in runs:
        while not ended(api, run):
            if time.monotonic() > deadline:
                raise Permanent(f"not all runs have completed within {_RUN_TIMEOUT_S:.0f} s")
            time.sleep(_LOOK_S)


def moments(api: httpx.Client, run: str) -> dict[str, float]:
    """When the API made the run (`created`) and set each of its states, by name, in seconds."""
    states = get(api, "/flow_run_states/", flow_run_id=run)
    found = {str(state["name"]): seconds(state["timestamp"]) for state in states}
    return {**found, "created": seconds(get(api, f"/flow_runs/{run}")["created"])}


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _told(api: httpx.Client, request: httpx.Request) -> Any:
    try:
        response = api.send(request)
    except httpx.TransportError as exc:
        raise Permanent(f"{request.method} {request.url.path}: {type(exc).__name__} {exc}") from exc
    if response.is_error:
        raise Permanent(f"Prefect's API answers {response.status_code} to {request.url.path}: {response.text[:300]}")
    return response.json()
