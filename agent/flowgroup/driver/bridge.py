"""
A Dask worker's way to Prefect's API: over Dask, through the child that sent the task. Loaded with `--preload`.

The worker serves `http://127.0.0.1:<port>/api` to itself. A call becomes a message on the topic of the child's Dask
client; the child makes the call with its own token and sends the answer back with `REPLY`. The same topic carries logs,
events and final states, several in one message. A worker holds no token, and needs no way to the relay.
"""

import asyncio
import json
import threading
import uuid
from typing import Any

import uvicorn
from distributed import Worker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowgroup.driver.leftovers import Leftovers
from flowgroup.driver.topics import REPLY, topic_of
from flowgroup.edge.embedded import Embedded
from flowgroup.settings import DriverSettings, set_environment, spare_loopback

_CALL_TIMEOUT_S = 110.0
_GATHER_S = 0.05  # how long what a task says may wait for more, unless the task ends
_PASSED = ("content-type", "accept", "user-agent", "x-prefect-api-version", "prefer")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Bridge:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.serving: asyncio.Task[None] | None = None
        self.clearing: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._said: dict[str, list[tuple[str, Any]]] = {}  # by owner, in order
        self._saying = threading.Lock()
        self._much = 0  # how often something was said since the last look
        self._looking = False
        worker.handlers[REPLY] = self._answered

    def say(self, owner: str, kind: str, body: Any) -> None:
        """A log record, an event or a final state, from any thread; it leaves within moments."""
        with self._saying:
            self._said.setdefault(owner, []).append((kind, body))
            self._much += 1
            if self._looking:
                return
            self._looking = True
        self._worker.loop.add_callback(self._look_later)

    def flush(self, owner: str) -> None:
        """What was said so far leaves ahead of the result of the task whose thread this is."""
        self._worker.loop.add_callback(self._flush, owner)

    def _look_later(self) -> None:
        self._worker.loop.call_later(_GATHER_S, self._look)

    def _look(self) -> None:
        """Goes on while something is said: waking this loop from a task's thread costs more than looking again."""
        with self._saying:
            owners, self._looking, self._much = list(self._said), self._much > 0, 0
            looks_again = self._looking
        for owner in owners:
            self._flush(owner)
        if looks_again:
            self._look_later()

    def _flush(self, owner: str) -> None:
        with self._saying:
            said = self._said.pop(owner, None)
        if said:
            self._worker.log_event(topic_of(owner), {"kind": "said", "said": said})

    def ask(self, owner: str, path: str) -> dict[str, Any]:
        """The child's answer to a GET, for a task's thread. Raises TimeoutError."""
        loop: Any = self._worker.loop
        asked = asyncio.run_coroutine_threadsafe(self._call(owner, "GET", path, {}, b""), loop.asyncio_loop)
        return asked.result(_CALL_TIMEOUT_S + 5.0)

    async def serve_call(self, request: Request) -> Response:
        owner = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not owner.startswith("Client-"):
            return Response("this address serves Prefect tasks on this worker only", status_code=401)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name in _PASSED}
        try:
            reply = await self._call(owner, request.method, path, headers, await request.body())
        except TimeoutError:
            return Response(
                "the run that sent this task does not answer", status_code=503, headers={"retry-after": "2"}
            )
        return Response(reply["body"], status_code=reply["status"], headers=reply["headers"])

    async def _call(self, owner: str, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        call = uuid.uuid4().hex
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[call] = answer
        message = {"kind": "call", "call": call, "worker": self._worker.address}
        self._flush(owner)
        try:
            self._worker.log_event(
                topic_of(owner), {**message, "method": method, "path": path, "headers": headers, "body": body}
            )
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                return await answer
        finally:
            self._waiting.pop(call, None)

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
    bridge.clearing = asyncio.create_task(Leftovers(worker).run(), name="flowgroup-leftovers")
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
    spare_loopback()
    _report_through(bridge)


def _report_through(bridge: Bridge) -> None:
    """Send this process's logs and events over the bridge. Imports Prefect: only once its address is set."""
    from prefect.events.schemas.events import RelatedResource
    from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
    from prefect.logging.handlers import APILogWorker, set_api_log_sink

    # results: so that a run's result storage is known here by its type
    from flowgroup.driver import engine, results, words, workers  # noqa: F401

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
            bridge.say(owner, "event", json.dumps(words.of_event(event.model_dump(mode="json"))))

    def sink(record: dict[str, Any]) -> None:
        owner = workers.owner_of_this_context() or workers.owner_of(str(record.get("flow_run_id")))
        if owner is not None:
            kept = {name: value for name, value in record.items() if name != "__payload_size__"}
            bridge.say(owner, "log", json.dumps(kept, default=str))
        elif workers.is_foreign():
            APILogWorker.instance().send(record)

    sender = Sender()
    stock = EventsWorker.instance.__func__  # type: ignore[attr-defined]
    EventsWorker.instance = classmethod(  # type: ignore[method-assign,assignment]
        lambda cls, *args: stock(cls, *args) if workers.is_foreign() else sender
    )
    set_api_log_sink(sink)
    words.hide()
    engine.keep_lines_short()
    workers.start(bridge, lean=DriverSettings().lean)
