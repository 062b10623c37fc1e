"""
A Dask worker's way to Prefect's API: over Dask, through the child that sent the task. Loaded with `--preload`.

The worker serves `http://127.0.0.1:<port>/api` to itself. A call becomes a message on the topic of the child's Dask
client; the child makes the call with its own token and sends the answer back with `REPLY`. The same topic carries logs
and events. A worker holds no token, and needs no way to the relay.
"""

import asyncio
import json
import uuid
from typing import Any

import uvicorn
from distributed import Worker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowgroup.edge.embedded import Embedded
from flowgroup.settings import set_environment

REPLY = "flowgroup_reply"
_CALL_TIMEOUT_S = 110.0
_PASSED = ("content-type", "accept", "user-agent", "x-prefect-api-version", "prefer")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def topic_of(client_id: str) -> str:
    return f"flowgroup-{client_id}"


class Bridge:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.serving: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        worker.handlers[REPLY] = self._answered

    def send(self, owner: str, kind: str, body: str) -> None:
        """A log record or an event, from any thread. Ordered with the results of this worker's tasks."""
        self._worker.loop.add_callback(self._worker.log_event, topic_of(owner), {"kind": kind, "body": body})

    async def serve_call(self, request: Request) -> Response:
        owner = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not owner.startswith("Client-"):
            return Response("this address serves Prefect tasks on this worker only", status_code=401)
        call = uuid.uuid4().hex
        body = await request.body()
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[call] = answer
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name in _PASSED}
        message = {"kind": "call", "call": call, "worker": self._worker.address}
        try:
            self._worker.log_event(
                topic_of(owner),
                {**message, "method": request.method, "path": path, "headers": headers, "body": body},
            )
            reply = await asyncio.wait_for(answer, _CALL_TIMEOUT_S)
        except TimeoutError:
            return Response(
                "the run that sent this task does not answer", status_code=503, headers={"retry-after": "2"}
            )
        finally:
            self._waiting.pop(call, None)
        return Response(reply["body"], status_code=reply["status"], headers=reply["headers"])

    async def _answered(self, call: str, answer: dict[str, Any], **_: Any) -> str:
        waiting = self._waiting.get(call)
        if waiting and not waiting.done():
            waiting.set_result(answer)  # not `reply`: Dask keeps that word in a message for itself
        return "OK"


async def dask_setup(worker: Worker) -> None:
    """Dask calls this when the worker has started, before it takes tasks."""
    bridge = Bridge(worker)
    app = Starlette(routes=[Route("/{path:path}", bridge.serve_call, methods=_METHODS)])
    server = Embedded(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    bridge.serving = asyncio.create_task(server.serve(), name="flowgroup-bridge")
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.port
    set_environment(
        {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
            "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        }
    )
    _report_through(bridge)


def _report_through(bridge: Bridge) -> None:
    """Send this process's logs and events over the bridge. Imports Prefect: only once its address is set."""
    from prefect.events.schemas.events import RelatedResource
    from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
    from prefect.logging.handlers import set_api_log_sink

    # results: so that a run's result storage is known here by its type
    from flowgroup.driver import results, workers  # noqa: F401

    class Sender:
        """Takes the place of Prefect's event service: sends in the caller's thread, so that order holds."""

        client_type = ProcessPoolForwardingEventsClient

        def send(self, event: Any) -> None:
            owner = workers.owner_of_this_context()
            if owner is None:
                return
            run_id = workers.flow_run_id()
            if run_id and not any(related.role == "flow-run" for related in event.related):
                event.related.append(
                    RelatedResource.model_validate(
                        {
                            "prefect.resource.id": f"prefect.flow-run.{run_id}",
                            "prefect.resource.role": "flow-run",
                        }
                    )
                )
            bridge.send(owner, "event", event.model_dump_json())

    def sink(record: dict[str, Any]) -> None:
        owner = workers.owner_of_this_context() or workers.owner_of(str(record.get("flow_run_id")))
        if owner is not None:
            bridge.send(
                owner,
                "log",
                json.dumps({k: v for k, v in record.items() if k != "__payload_size__"}, default=str),
            )

    sender = Sender()
    EventsWorker.instance = classmethod(lambda cls, *_: sender)  # type: ignore[method-assign,assignment]
    set_api_log_sink(sink)
    workers.start()
