"""
Run one flow of a deployment in this process with some of the changes to Prefect's engine, and print what happened as JSON.

    python -m tests.driver.lean_lab '{"changes": […], "flow": …}'
"""

import asyncio
import json
import socket
import ssl
import sys
import threading
import time
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_client, runtime
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from flowgroup.driver import engine, lean
from flowgroup.driver.related import Relations
from flowgroup.driver.shipper import Shipper

SEEN: dict[str, Any] = {"calls": [], "sockets": 0, "contexts": 0}


@flow
def plain() -> int:
    SEEN["run_count"] = runtime.flow_run.run_count
    SEEN["threads"] = [thread.name for thread in threading.enumerate() if "heartbeat" in str(thread)]
    return 1


@flow
async def coroutine() -> int:
    SEEN["run_count"] = runtime.flow_run.run_count
    return 1


@flow(retries=1)
def retried() -> int:
    SEEN["run_count"] = runtime.flow_run.run_count
    if runtime.flow_run.run_count < 2:
        raise ValueError("again")
    return 1


@flow
def emits() -> None:
    emit_event("lab.event", resource={"prefect.resource.id": "lab"})
    inner()


@flow
def inner() -> None:
    emit_event("lab.inner", resource={"prefect.resource.id": "lab"})


@flow
def waits() -> None:
    """Suspended from outside: stops at its next boundary."""
    with get_client(sync_client=True) as client:
        run_id = runtime.flow_run.id
        answer = client.set_flow_run_state(run_id, _suspended(), force=False)
        SEEN["answer"] = str(answer.status)
    engine.suspend(UUID(run_id))
    inner()
    SEEN["went_on"] = True


def _suspended() -> Any:
    from prefect.states import Suspended

    return Suspended(timeout_seconds=60)


def main() -> None:
    told = json.loads(sys.argv[1])
    theirs, ours = socket.socketpair()
    shipped: list[dict[str, Any]] = []
    reading = threading.Thread(target=_read, args=(theirs, shipped))
    reading.start()
    shipper = Shipper(ours.detach())
    _watch()
    with get_client(sync_client=True) as client:
        run = _made(client, told)
    SEEN["calls"].clear()
    engine.ship_through(shipper)
    known = lean.Lean(
        run_id=run.id,
        shipper=shipper,
        start_at=time.time() + told["ahead_s"] if "ahead_s" in told else None,
        relations=Relations.told(str(run.id), told.get("related", [])),
        storage_is_known=True,
        learn=engine.learn,
    )
    SEEN["start_at"] = known.start_at
    for change in lean.fitting():
        if change.__name__ in told["changes"]:
            change(known)
    SEEN["contexts"] = 0
    try:
        result = run_flow(globals()[told["flow"]], flow_run=run, return_type="state")
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    except BaseException as exc:
        SEEN["raised"] = type(exc).__name__
    calls = list(SEEN["calls"])
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=10)
    shipper.close()
    reading.join()
    with get_client(sync_client=True) as client:
        SEEN["states"] = [(state.name, state.timestamp.timestamp()) for state in client.read_flow_run_states(run.id)]
        SEEN["run"] = client.read_flow_run(run.id).model_dump(mode="json")
    print(json.dumps({**SEEN, "calls": calls, "shipped": shipped}, default=str))


def _made(client: Any, told: dict[str, Any]) -> FlowRun:
    flow_id = client.create_flow(globals()[told["flow"]])
    deployment = client.create_deployment(flow_id=flow_id, name="lab")
    run = client.create_flow_run_from_deployment(deployment, state=Scheduled())
    client.set_flow_run_state(run.id, _pending())
    found: FlowRun = client.read_flow_run(run.id)
    return found


def _pending() -> Any:
    from prefect.states import Pending

    return Pending()


def _watch() -> None:
    """Count what leaves the process."""
    send, send_async, made = httpx.Client.send, httpx.AsyncClient.send, ssl.create_default_context

    def sent(self: Any, request: Any, **more: Any) -> Any:
        SEEN["calls"].append(f"{request.method} {request.url.path.removeprefix('/api')}")
        return send(self, request, **more)

    async def sent_async(self: Any, request: Any, **more: Any) -> Any:
        SEEN["calls"].append(f"{request.method} {request.url.path.removeprefix('/api')}")
        return await send_async(self, request, **more)

    def context(*arguments: Any, **more: Any) -> Any:
        SEEN["contexts"] += 1
        return made(*arguments, **more)

    httpx.Client.send, httpx.AsyncClient.send = sent, sent_async
    ssl.create_default_context = context
    from prefect._internal.observers import FlowRunSuspendingObserver

    enter = FlowRunSuspendingObserver.__aenter__

    async def entered(self: Any) -> Any:
        SEEN["sockets"] += 1
        return await enter(self)

    FlowRunSuspendingObserver.__aenter__ = entered  # type: ignore[method-assign]


def _read(end: socket.socket, shipped: list[dict[str, Any]]) -> None:
    with end, end.makefile("rb") as lines:
        for line in lines:
            shipped.append(json.loads(line))


if __name__ == "__main__":
    main()
