"""
The child's side of Dask: a task runner that sends tasks to the group's workers, and the calls that tasks need.

A task goes as cloudpickle bytes made here, with every module under the run's code folder by value; what tasks have in
common goes once (`parts.py`, `frames.py`), and so many tasks at a time (`inflight.py`). The token stays here. A task's logs,
events, API calls and small results come back over Dask on a topic of this client's own.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import distributed
import httpx
from dask.base import annotate, get_annotations
from prefect.context import EngineContext, SettingsContext, TagsContext
from prefect.utilities.collections import visit_collection
from prefect.utilities.engine import collect_task_run_inputs_sync
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from flowgroup.driver import engine, frames, imports, resources, workers
from flowgroup.driver.futures import GroupFuture
from flowgroup.driver.inflight import InFlight
from flowgroup.driver.own import Own
from flowgroup.driver.parts import PARTS_PATH, Parts, whole
from flowgroup.driver.pickles import dumped
from flowgroup.driver.sent import Upstream, Work, run_task
from flowgroup.driver.shipper import Shipper
from flowgroup.driver.topics import REPLY, forget, topic_of

_CALL_TIMEOUT_S = 100.0
_OPENING_S = 2.0  # a run may be over before its connection is made; then it is closed as well
_PASSED = {"content-type", "retry-after", "prefect-maintenance"}


class GroupTaskRunner(DaskTaskRunner):
    """Prefect's task runner for the group's own workers. `own`: what goes by value; None on a worker, which knows."""

    def __init__(self, address: str, own: Own | None = None) -> None:
        super().__init__(address=address)
        self._address = address
        self._own = own
        self._frame: tuple[Any, Any, bytes] | None = None  # what it was made from, and it

    def __reduce__(self) -> tuple[Any, ...]:
        return (GroupTaskRunner, (self._address,))

    def duplicate(self) -> "GroupTaskRunner":
        return GroupTaskRunner(self._address, self._own)

    @property
    def client(self) -> Any:  # a plain distributed.Client: what to send is decided here, not there
        """On a worker the worker's client; in the child the one that `connected` made."""
        return current_client()

    def submit(  # type: ignore[override]  # the base class says it once for sync and once for async tasks
        self,
        task: Any,
        parameters: dict[str, Any],
        wait_for: Iterable[Any] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> GroupFuture:
        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        here = _here()
        if here:
            here.in_flight.wait_for_room()
        if self._own:
            self._own.register()
        task_run_id = uuid4()
        upstream: list[Any] = []
        inputs = {name: collect_task_run_inputs_sync(value) for name, value in parameters.items()}
        for name, more in (dependencies or {}).items():
            inputs[name] = inputs.get(name, set()) | more
        pack = here.parts.pack if here else whole
        call = {
            "task_run_id": task_run_id,
            "parameters": _without_futures(parameters, upstream),
            "wait_for": _without_futures(list(wait_for), upstream) if wait_for else None,
            "dependencies": inputs,
            "context": frames.of_call(task, task_run_id, inputs),
        }
        work = Work(
            owner=workers.owner_of_this_context() or self.client.id,
            flow_run_id=workers.flow_run_id(),
            names=self._own.names() if self._own else _names_here(),
            told=here is not None,
            depth=workers.DEPTH.get() + 1,
            code=pack(dumped(task)),
            frame=pack(self._frame_of_run()),
            call=dumped(call),
        )
        with annotate(**_resources(task)):
            return self._send(work, upstream, f"{task.name}-{task_run_id}", task_run_id)

    def _send(self, work: Work, upstream: list[Any], key: str, task_run_id: UUID) -> GroupFuture:
        """Tasks of tasks go first: somebody waits for them, and holds memory."""
        future = self.client.submit(run_task, work, *upstream, key=key, pure=False, retries=0, priority=work.depth - 1)
        made = GroupFuture(task_run_id, future)
        return made.expect_to_be_told() if work.told else made

    def _frame_of_run(self) -> bytes:
        """What all tasks of the current flow run have in common. A flow run has a runner of its own, so it is made once."""
        context, settings = EngineContext.get(), SettingsContext.get()
        if self._frame is None or self._frame[0] is not context or self._frame[1] is not settings:
            brought = workers.FRAME.get() if context is None or context.detached else None
            self._frame = context, settings, brought or frames.of_run(GroupTaskRunner(self._address))
        return self._frame[2]


def _names_here() -> frozenset[str]:
    """On a worker: the top-level names of the own modules of the run whose task this is."""
    code = imports.CODE.get()
    return code.names if code is not None else frozenset()


def _resources(task: Any) -> dict[str, dict[str, float]]:
    """What the task's tags ask for beside `dask.annotate`, as an annotation; empty if they ask for nothing."""
    by_tags = resources.asked(task.tags | TagsContext.get().current_tags)
    annotated = get_annotations().get("resources") or {}
    return {"resources": {**annotated, **by_tags}} if by_tags else {}


def _without_futures(value: Any, upstream: list[Any]) -> Any:
    """`value` with each Dask future replaced by its place in `upstream`: only top-level arguments are Dask's to resolve."""

    def visit(item: Any) -> Any:
        if isinstance(item, PrefectDaskFuture):
            upstream.append(item.wrapped_future)
            return Upstream(len(upstream) - 1)
        return item

    return visit_collection(value, visit_fn=visit, return_data=True)


_CONNECTION: "Connection | None" = None  # one per process: Prefect makes task runners where we cannot pass it


def _here() -> "Connection | None":
    """The child's connection; None on a worker."""
    return _CONNECTION if workers.owner_of_this_context() is None else None


def current_client() -> distributed.Client:
    """The run's Dask client: on a worker the worker's own. Raises RuntimeError where there is none."""
    if workers.owner_of_this_context() is not None:
        return distributed.get_client()
    if _CONNECTION is None:
        raise RuntimeError("this run's flow group has no Dask workers: deploy it with cluster=Cluster(workers=…)")
    return _CONNECTION.client()


class Connection:
    """The child's connection to the group's scheduler, and what comes back over it."""

    def __init__(self, address: str, shipper: Shipper, api_url: str, token: str, own: Own) -> None:
        self._address = address
        self._own = own
        self._shipper = shipper
        self._api_url = api_url.removesuffix("/api")
        self._token = token
        self._client: distributed.Client | None = None
        self._lock = threading.Lock()
        self._opening = threading.Thread(target=self._open, name="flowgroup-dask", daemon=True)
        self.parts = Parts()
        self.in_flight = InFlight(self._pending)

    def _pending(self) -> int:
        return sum(state.status == "pending" for state in list(self.client().futures.values()))

    def client(self) -> distributed.Client:
        """Raises OSError when the scheduler does not answer within 30 s."""
        with self._lock:
            if self._client is None:
                client = distributed.Client(self._address, set_as_default=False, timeout=30)
                client.subscribe_topic(topic_of(client.id), self._heard)
                self._client = client
            return self._client

    def __enter__(self) -> "Connection":
        """It is made while the API is told that the run runs. Where it cannot be, the first task says why."""
        global _CONNECTION
        _CONNECTION = self
        self._opening.start()
        return self

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self.client()

    def __exit__(self, *_: object) -> None:
        global _CONNECTION
        _CONNECTION = None
        self._opening.join(_OPENING_S)
        if self._client is not None:
            with contextlib.suppress(OSError, AttributeError):
                self._client.run_on_scheduler(forget, topic_of(self._client.id))
            self._client.close(timeout=5)

    async def _heard(self, stamped: tuple[float, dict[str, Any]]) -> None:
        message = stamped[1]
        if message["kind"] == "call":
            self._loop().add_callback(self._call, message)  # it may take long: the next log must not wait for it
            return
        for kind, body in message["said"]:
            if kind == "log":
                self._shipper.log(json.loads(body))
            elif kind == "event":
                self._shipper.event(engine.complete(json.loads(body)))
            else:
                GroupFuture.hear(*body)

    async def _call(self, message: dict[str, Any]) -> None:
        headers = {**message["headers"], "authorization": f"Bearer {self._token}"}
        if message["path"].startswith((imports.MODULES_PATH, PARTS_PATH)):
            find = self._module if message["path"].startswith(imports.MODULES_PATH) else self._part
            await self._answer(message, await asyncio.to_thread(find, message["path"]))
            return
        try:
            async with httpx.AsyncClient(base_url=self._api_url, timeout=_CALL_TIMEOUT_S, verify=False) as http:  # noqa: S501  loopback
                answer = await http.request(
                    message["method"], message["path"], headers=headers, content=message["body"]
                )
            passed = {name: value for name, value in answer.headers.items() if name in _PASSED}
            reply = {"status": answer.status_code, "headers": passed, "body": answer.content}
        except httpx.HTTPError as exc:
            reply = {
                "status": 503,
                "headers": {"prefect-maintenance": "true", "retry-after": "1"},
                "body": str(exc).encode(),
            }
        await self._answer(message, reply)

    def _module(self, path: str) -> dict[str, Any]:
        """The answer to a worker that asks for a module of the run."""
        name = path.removeprefix(imports.MODULES_PATH).strip("/")
        try:
            packed = self._own.pack(name)
        except (Exception, SystemExit) as exc:  # noqa: BLE001  the module's own code runs here: anything may come out
            return {"status": 500, "headers": {}, "body": f"{type(exc).__name__}: {exc}".encode()}
        return {"status": 404 if packed is None else 200, "headers": {}, "body": packed or b""}

    def _part(self, path: str) -> dict[str, Any]:
        part = self.parts.get(path.removeprefix(PARTS_PATH).strip("/"))
        return {"status": 404 if part is None else 200, "headers": {}, "body": part or b""}

    def _loop(self) -> Any:
        return self.client().loop

    async def _answer(self, message: dict[str, Any], answer: dict[str, Any]) -> None:
        scheduler: Any = self.client().scheduler
        await scheduler.broadcast(
            msg={"op": REPLY, "call": message["call"], "answer": answer}, workers=[message["worker"]]
        )
