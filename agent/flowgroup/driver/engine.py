"""
What is changed in Prefect, all of it, each with its reason. Checked against the installed version when the zygote starts.

Nothing here changes what a flow means; without it a run still works, except for what each function says.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import prefect.context
from prefect._flow_run_suspension import is_suspended_flow_run_state, mark_flow_run_suspension_requested
from prefect._internal import control_listener
from prefect.client.orchestration import get_client
from prefect.concurrency.services import (
    ConcurrencySlotAcquisitionService,
    ConcurrencySlotAcquisitionWithLeaseService,
)
from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine
from prefect.logging.handlers import APILogHandler, set_api_log_sink
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.engine import commit_control_intent_and_ack

from flowgroup.driver import words
from flowgroup.driver.shipper import Shipper


def check() -> None:
    """Raise AttributeError naming what the installed Prefect lacks."""
    for holder, names in (
        (prefect.context, ("refresh_global_settings_context", "GLOBAL_SETTINGS_CONTEXT")),
        (control_listener, ("_set_intent", "_clear_intent", "engine_outcome_is_handled")),
        (EventsWorker, ("set_client_override",)),
        (FlowRunEngine, ("handle_exception",)),
        (AsyncFlowRunEngine, ("handle_exception",)),
        (ThreadPoolTaskRunner, ("duplicate",)),
        (ConcurrencySlotAcquisitionService, ("instance", "_stop")),
        (ConcurrencySlotAcquisitionWithLeaseService, ("instance", "_stop")),
    ):
        for name in names:
            getattr(holder, name)


_RUN_WIDE = frozenset({"flow", "deployment", "work-queue", "work-pool", "tag"})
_related: dict[str, list[dict[str, Any]]] = {}


def ship_through(shipper: Shipper) -> None:
    """Logs and events go to the desk in batches, instead of over a websocket and HTTP calls of each run's own."""

    class Queue:
        def put(self, item: tuple[str, Any]) -> None:
            event: dict[str, Any] = item[1].model_dump(mode="json")
            learn(event)
            shipper.event(event)

    set_api_log_sink(shipper.log)
    keep_lines_short()
    EventsWorker.set_client_override(ProcessPoolForwardingEventsClient, event_queue=Queue())


def keep_lines_short() -> None:
    """A log's line is cut where it is made: Prefect would turn all of it into JSON first, and then drop most of it."""
    stock = APILogHandler.format
    APILogHandler.format = lambda self, record: words.sayable(stock(self, record))  # type: ignore[method-assign]


def complete(event: dict[str, Any]) -> dict[str, Any]:
    """An event from a worker, with the flow, deployment and pool of its run: a worker does not know them."""
    run = next((r["prefect.resource.id"] for r in event["related"] if r["prefect.resource.role"] == "flow-run"), "")
    return {**event, "related": [*event["related"], *_related.get(run, [])]}


def relate(run_id: str, resources: list[dict[str, Any]]) -> None:
    """What the order says that the events of a run are related to."""
    _related.setdefault(f"prefect.flow-run.{run_id}", resources)


def learn(event: dict[str, Any]) -> None:
    """Prefect looked up what belongs to a flow run for the run's own first event; keep it for its tasks' events."""
    about = [event["resource"], *event["related"]]
    run = next(
        (r["prefect.resource.id"] for r in about if r["prefect.resource.id"].startswith("prefect.flow-run.")),
        None,
    )
    wide = [related for related in event["related"] if related["prefect.resource.role"] in _RUN_WIDE]
    if run and wide:
        _related.setdefault(run, wide)


def commit_cancel() -> bool:
    """
    Tell the engine that the SIGTERM to come is a cancellation, not a crash.

    False when no engine is listening (before the flow starts, after it ended): the signal then simply ends the process.
    """
    return bool(
        commit_control_intent_and_ack(
            commit_intent=lambda: control_listener._set_intent("cancel"),
            clear_intent=control_listener._clear_intent,
            send_ack=lambda: None,
        )
    )


def suspend(run_id: UUID) -> None:
    """The API is said to have suspended the run: if it has, the engine stops at its next boundary."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run_id).state
    if state is not None and is_suspended_flow_run_state(state):
        mark_flow_run_suspension_requested(run_id, state)


def explain(explained: Callable[[BaseException], str | None]) -> None:
    """
    A Failed state's message begins with what `explained` says of its exception. It may take seconds, and is asked in a thread
    where there is a loop.
    """
    stock, stock_async = FlowRunEngine.handle_exception, AsyncFlowRunEngine.handle_exception

    def handle(self: Any, exc: Exception, msg: str | None = None, result_store: Any = None) -> Any:
        return stock(self, exc, msg or explained(exc), result_store)

    async def handle_async(self: Any, exc: Exception, msg: str | None = None, result_store: Any = None) -> Any:
        return await stock_async(self, exc, msg or await asyncio.to_thread(explained, exc), result_store)

    FlowRunEngine.handle_exception = handle  # type: ignore[method-assign]
    AsyncFlowRunEngine.handle_exception = handle_async  # type: ignore[method-assign]


def outcome_is_reported() -> bool:
    """Whether the engine has concluded this attempt with the API."""
    return bool(control_listener.engine_outcome_is_handled())


def replace_default_runner(make: Callable[[], Any]) -> None:
    """
    Flows that name no task runner get ours (`make`), sub-flows too: the engine asks each flow's runner for a duplicate.

    So does a `DaskTaskRunner()` that names no cluster of its own. A ThreadPoolTaskRunner with its `max_workers` set, or a
    DaskTaskRunner with an address or a cluster class, was named on purpose and stays.
    """
    from prefect_dask.task_runners import DaskTaskRunner  # not needed without workers

    plain = ThreadPoolTaskRunner()._max_workers

    def separate(kind: Any, names_nothing: Callable[[Any], bool]) -> None:
        stock = kind.duplicate
        kind.duplicate = lambda self: make() if type(self) is kind and names_nothing(self) else stock(self)

    separate(ThreadPoolTaskRunner, lambda runner: bool(runner._max_workers == plain))
    separate(DaskTaskRunner, lambda runner: not (runner.address or runner.cluster_class or runner.cluster_kwargs))


class _Owned(frozenset[str]):
    """Names of limits, of one owner."""

    owner: str | None = None

    def __hash__(self) -> int:
        return hash((frozenset(self), self.owner))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Owned) and frozenset(self) == frozenset(other) and self.owner == other.owner


def keep_slots_apart(owner: Callable[[], str | None]) -> Callable[[str], None]:
    """
    On a worker: Prefect's services that take slots of concurrency limits are made per owner, not per process.

    Each keeps a client with the settings of the task that first needed it; the next run's tasks would ask with the first
    run's identity, which nobody answers any more. Gives the function that ends an owner's services.
    """
    made: dict[str | None, list[Any]] = {}

    def separate(service: Any) -> None:
        stock = service.instance.__func__

        def instance(cls: Any, names: frozenset[str]) -> Any:
            owned = _Owned(names)
            owned.owner = owner()
            found = stock(cls, owned)
            if found not in made.setdefault(owned.owner, []):
                made[owned.owner].append(found)
            return found

        service.instance = classmethod(instance)

    def release(ended: str) -> None:
        for service in made.pop(ended, []):
            service._stop()

    separate(ConcurrencySlotAcquisitionService)
    separate(ConcurrencySlotAcquisitionWithLeaseService)
    return release
