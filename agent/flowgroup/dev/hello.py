"""
What `flowgroup check` does: a hello flow goes the whole way: daemon, cluster, driver, relay, API.

The flow is in our own package, which every image has that runs flows, so no store is needed. Its deployment is gone afterwards.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flowgroup import retry
from flowgroup.edge.wire import NotFound, Wire, connected
from flowgroup.errors import Permanent
from flowgroup.model.variables import POOL_TYPE
from flowgroup.settings import PrefectSettings

_FLOW = "flowgroup-check"
_ENTRYPOINT = "flowgroup.dev.example.hello.hello"
_FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_LOOK_S = 1.0
_PATIENCE_S = 60.0
_LOGS_MAX = 50
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR", 50: "FATAL"}


async def completes(settings: PrefectSettings, pool: str, variables: dict[str, Any], timeout_s: float) -> bool:
    """
    Run the hello flow with these job variables, and print its states and logs. Whether it completed.

    Raises Permanent when the pool is not there or the run does not end in time, and Transient and Refused.
    """
    async with connected(settings) as wire:
        await _is_ours(wire, pool)
        async with _deployed(wire, pool, variables) as deployment:
            made = await _call(wire, "POST", f"/deployments/{deployment}/create_flow_run", {})
            print(f"run {made['name']} on the pool {pool}", flush=True)
            state = await _ended(wire, made["id"], timeout_s)
            await _show_logs(wire, made["id"])
    return state == "COMPLETED"


async def _call(wire: Wire, method: str, path: str, body: Any = None) -> Any:
    """A busy server is asked again. A deployment or a run that is made twice does no harm: the first is never looked at."""
    return await retry.until(lambda: wire.call(method, path, body), timeout_s=_PATIENCE_S)


async def _is_ours(wire: Wire, pool: str) -> None:
    try:
        there = await _call(wire, "GET", f"/work_pools/{pool}")
    except NotFound as exc:
        raise Permanent(f"there is no work pool {pool!r}: the daemon makes it when it starts. Does it run?") from exc
    if there["type"] != POOL_TYPE:
        raise Permanent(f"the work pool {pool!r} is of type {there['type']!r}, not {POOL_TYPE!r}")


@asynccontextmanager
async def _deployed(wire: Wire, pool: str, variables: dict[str, Any]) -> AsyncIterator[str]:
    """The id of a deployment of the hello flow, which is removed again."""
    flow = await _call(wire, "POST", "/flows/", {"name": _FLOW})
    body = {
        "name": uuid.uuid4().hex[:12],
        "flow_id": flow["id"],
        "work_pool_name": pool,
        "entrypoint": _ENTRYPOINT,
        "job_variables": variables,
        "enforce_parameter_schema": False,
    }
    deployment: str = (await _call(wire, "POST", "/deployments/", body))["id"]
    try:
        yield deployment
    finally:
        await _call(wire, "DELETE", f"/deployments/{deployment}")


async def _ended(wire: Wire, run: str, timeout_s: float) -> str:
    """The type of the run's last state; says each state as it comes. Raises Permanent when none is the last in time."""
    said = ""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                state = (await _call(wire, "GET", f"/flow_runs/{run}"))["state"]
                line = f"{state['name']}  {state.get('message') or ''}".rstrip()
                if line != said:
                    print(f"  {line}", flush=True)
                    said = line
                if state["type"] in _FINAL:
                    return str(state["type"])
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as exc:
        raise Permanent(f"the run has not ended within {timeout_s:.0f} s; its last state: {said}") from exc


async def _show_logs(wire: Wire, run: str) -> None:
    wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": _LOGS_MAX}
    for entry in await _call(wire, "POST", "/logs/filter", wanted):
        print(f"  {_LEVELS.get(entry['level'], entry['level']):5} {entry['message']}", flush=True)
