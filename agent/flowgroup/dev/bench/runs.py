"""Flow runs as the benchmark asks for them and reads them back: by the API's own timestamps."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

from flowgroup.dev.bench.access import OURS
from flowgroup.errors import Permanent

RUN_TIMEOUT_S = 120.0
_LOOK_S = 0.1
_LOOK_AT_MANY_S = 0.5
_FEW = 4
_UNHAPPY_EVERY = 10  # looks: each costs the server something
_MAKERS = 3  # more only get in each other's way: on SQLite the server refuses to make runs while it writes
Given = TypeVar("Given")
Made = TypeVar("Made")
_UNHAPPY = ("FAILED", "CRASHED", "CANCELLED")


def post(api: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    return _told(api, api.build_request("POST", path, json=body, params={OURS: ""}))


def patch(api: httpx.Client, path: str, body: dict[str, Any]) -> None:
    _answered(api, api.build_request("PATCH", path, json=body, params={OURS: ""}))


def get(api: httpx.Client, path: str, **params: str) -> Any:
    return _told(api, api.build_request("GET", path, params={OURS: "", **params}))


def start(api: httpx.Client, deployment: str, due_at: float | None = None, **parameters: Any) -> str:
    """Ask for a run now, or for a moment to come; its id."""
    at = {} if due_at is None else {"scheduled_time": datetime.fromtimestamp(due_at, UTC).isoformat()}
    body = {"parameters": parameters, "state": {"type": "SCHEDULED", "state_details": at}}
    return str(post(api, f"/deployments/{deployment}/create_flow_run", body)["id"])


def make(api: httpx.Client, deployment: str, number: int, **parameters: Any) -> list[str]:
    """Many runs, as fast as the server takes them."""
    return in_parallel(lambda _: start(api, deployment, **parameters), range(number), width=_MAKERS)


def in_parallel(do: Callable[[Given], Made], of: Iterable[Given], *, width: int) -> list[Made]:
    with ThreadPoolExecutor(width) as pool:
        return list(pool.map(do, of))


def wait(api: httpx.Client, runs: list[str], timeout_s: float = RUN_TIMEOUT_S) -> None:
    """Until all have completed. Raises Permanent, also when one ended in any other way."""
    _until(api, runs, ("COMPLETED",), timeout_s)


def wait_running(api: httpx.Client, runs: list[str], timeout_s: float = RUN_TIMEOUT_S) -> None:
    _until(api, runs, ("RUNNING", "COMPLETED"), timeout_s)


def cancel(api: httpx.Client, run: str) -> None:
    post(api, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def count(api: httpx.Client, runs: Iterable[str], types: Iterable[str]) -> int:
    """How many of these runs are in a state of one of these types."""
    body = {"flow_runs": {"id": {"any_": list(runs)}, "state": {"type": {"any_": list(types)}}}}
    return int(post(api, "/flow_runs/count", body))


def moments(api: httpx.Client, run: str) -> dict[str, float]:
    """When the API made the run (`created`) and set each of its states, by name, in seconds."""
    states = get(api, "/flow_run_states/", flow_run_id=run)
    found = {str(state["name"]): seconds(state["timestamp"]) for state in states}
    return {**found, "created": seconds(get(api, f"/flow_runs/{run}")["created"])}


def lines(api: httpx.Client, run_ids: list[str], *, offset: int = 0, limit: int = 200, newest: bool = False) -> Any:
    """A page of the runs' log lines."""
    sort = "TIMESTAMP_DESC" if newest else "TIMESTAMP_ASC"
    where = {"flow_run_id": {"any_": run_ids}}
    return post(api, "/logs/filter", {"logs": where, "sort": sort, "limit": limit, "offset": offset})


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _until(api: httpx.Client, runs: list[str], types: tuple[str, ...], timeout_s: float) -> None:
    deadline, looks = time.monotonic() + timeout_s, 0
    while count(api, runs, types) < len(runs):
        looks += 1
        if looks % _UNHAPPY_EVERY == 0 and count(api, runs, _UNHAPPY):
            raise Permanent(_unhappy(api, runs))
        if time.monotonic() > deadline:
            raise Permanent(f"not all runs are {' or '.join(types).lower()} within {timeout_s:.0f} s")
        time.sleep(_LOOK_S if len(runs) <= _FEW else _LOOK_AT_MANY_S)


def _unhappy(api: httpx.Client, runs: list[str]) -> str:
    found = (get(api, f"/flow_runs/{run}") for run in runs)
    first = next(run for run in found if run["state_type"] in _UNHAPPY)
    return f"{first['name']} is {first['state_name']}: {first['state']['message']}"


def _told(api: httpx.Client, request: httpx.Request) -> Any:
    return _answered(api, request).json()


def _answered(api: httpx.Client, request: httpx.Request) -> httpx.Response:
    try:
        response = api.send(request)
    except httpx.TransportError as exc:
        raise Permanent(f"{request.method} {request.url.path}: {type(exc).__name__} {exc}") from exc
    if response.is_error:
        raise Permanent(f"Prefect's API answers {response.status_code} to {request.url.path}: {response.text[:300]}")
    return response
