"""
What is changed in Prefect's engine to save its needless waits and calls, all of it, each with what it saves.

A change is made only if the installed Prefect looks as it expects (`changes.py`); without it a run works all the same,
only slower. `FLOWGROUP_DRIVER_LEAN=false` leaves all of them out. What Prefect needs from us to work at all is in
`engine.py`.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

import certifi
import prefect.client.orchestration
import prefect.context
import prefect.events.worker
import prefect.flow_engine
import prefect.results
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.events.utilities import emit_event
from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
from prefect.settings import PREFECT_API_SSL_CERT_FILE

from flowgroup.driver import lean_tasks
from flowgroup.driver.changes import Changes
from flowgroup.driver.related import Relations
from flowgroup.driver.shipper import Shipper

flow_engine: Any = prefect.flow_engine  # its names are put in other things' place here


@dataclass
class Lean:
    """What the desk and the daemon know of a run, so that its engine need not ask. None: not known, so it asks."""

    run_id: UUID
    shipper: Shipper
    start_at: float | None = None
    relations: Relations | None = None
    storage_is_known: bool = False
    default_storage: UUID | None = None
    flow_version: str | None = None
    learn: Callable[[dict[str, Any]], None] = field(default=lambda _: None)


CHANGES: Changes[Callable[[Lean], None]] = Changes()
expects, fitting = CHANGES.expects, CHANGES.fitting


def apply(lean: Lean) -> None:
    """In a child, before its flow is loaded."""
    for change in fitting():
        change(lean)


# Calls that are not needed


class _Ssl:
    """The module `ssl` with one context per certificate file: making one takes 20 ms, and Prefect makes one per client."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.create_default_context = lru_cache(maxsize=8)(module.create_default_context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@expects("prefect.client.orchestration:ssl.create_default_context")
def one_tls_context(lean: Lean) -> None:
    orchestration: Any = prefect.client.orchestration
    orchestration.ssl = _SSL


_SSL = _Ssl(ssl)


def make_tls_context() -> None:
    """In the zygote, so that children find the usual one made."""
    _SSL.create_default_context(cafile=PREFECT_API_SSL_CERT_FILE.value() or certifi.where())


@expects(
    "prefect.results:_read_server_default_result_storage_block_id()",
    "prefect.results:_aread_server_default_result_storage_block_id()",
)
def default_storage_is_known(lean: Lean) -> None:
    """The server's default result storage came with the order: two calls less."""
    if not lean.storage_is_known:
        return
    results: Any = prefect.results

    async def known() -> UUID | None:
        return lean.default_storage

    results._aread_server_default_result_storage_block_id = known
    results._read_server_default_result_storage_block_id = lambda: lean.default_storage


@expects(*lean_tasks.TRANSACTIONS)
def read_what_may_be_kept(lean: Lean) -> None:
    """Of tasks in the run's own process, as on workers."""
    lean_tasks.read_what_may_be_kept()


@expects(
    "prefect.flow_engine:FlowRunEngine.setup_run_context(self, client)",
    "prefect.flow_engine:AsyncFlowRunEngine.setup_run_context(self, client)",
)
def run_is_known(lean: Lean) -> None:
    """
    Once Running is accepted the engine reads its run anew: a call less. What the server changed is known: it counted
    the run, and set its start time if it had none.
    """
    stock, stock_async = flow_engine.FlowRunEngine.setup_run_context, flow_engine.AsyncFlowRunEngine.setup_run_context

    @contextmanager
    def setup(self: Any, client: Any = None) -> Iterator[None]:
        with stock(self, client=_first_read(_KnowsRun, client or self.client, _running(self.flow_run))):
            yield

    @asynccontextmanager
    async def setup_async(self: Any, client: Any = None) -> AsyncIterator[None]:
        async with stock_async(
            self, client=_first_read(_KnowsRunAsync, client or self.client, _running(self.flow_run))
        ):
            yield

    flow_engine.FlowRunEngine.setup_run_context = setup
    flow_engine.AsyncFlowRunEngine.setup_run_context = setup_async


def _running(run: Any) -> Any:
    started = run.start_time or run.state.timestamp
    return run.model_copy(update={"run_count": run.run_count + 1, "start_time": started})


def _first_read(kind: Any, client: Any, run: Any) -> Any:
    """The same client, which answers its first read of this run by itself."""
    made = object.__new__(kind)
    made.__dict__.update(client.__dict__)
    made._known_run = run
    return made


class _KnowsRun(SyncPrefectClient):
    _known_run: Any = None

    def read_flow_run(self, flow_run_id: UUID) -> Any:
        known, self._known_run = self._known_run, None
        return known if known is not None and known.id == flow_run_id else super().read_flow_run(flow_run_id)


class _KnowsRunAsync(PrefectClient):
    _known_run: Any = None

    async def read_flow_run(self, flow_run_id: UUID) -> Any:
        known, self._known_run = self._known_run, None
        return known if known is not None and known.id == flow_run_id else await super().read_flow_run(flow_run_id)


_STARTING: ContextVar[Any] = ContextVar("flowgroup_engine_starting", default=None)
_UPDATE = (
    "(self, flow_run_id, flow_version, parameters, name, tags, empirical_policy, infrastructure_pid, job_variables)"
)


@expects(
    f"prefect.client.orchestration:SyncPrefectClient.update_flow_run{_UPDATE}",
    f"prefect.client.orchestration:PrefectClient.update_flow_run{_UPDATE}",
    "prefect.flow_engine:FlowRunEngine.initialize_run(self)",
    "prefect.flow_engine:AsyncFlowRunEngine.initialize_run(self)",
)
def version_is_told_later(lean: Lean) -> None:
    """
    Before Running the engine tells the flow's version and how often to retry. The server needs the retries before the
    run fails; a version alone may come while the run runs, and one that is known not at all.
    """
    _mark_starting()
    stock, stock_async = SyncPrefectClient.update_flow_run, PrefectClient.update_flow_run

    def update(self: Any, flow_run_id: UUID, *positional: Any, **named: Any) -> Any:
        if not positional and _put_off(lean, flow_run_id, named):
            return None
        return stock(self, flow_run_id, *positional, **named)

    async def update_async(self: Any, flow_run_id: UUID, *positional: Any, **named: Any) -> Any:
        if not positional and _put_off(lean, flow_run_id, named):
            return None
        return await stock_async(self, flow_run_id, *positional, **named)

    SyncPrefectClient.update_flow_run = update  # type: ignore[method-assign]
    PrefectClient.update_flow_run = update_async  # type: ignore[method-assign]


def _put_off(lean: Lean, run_id: UUID, told: dict[str, Any]) -> bool:
    version, policy = told.get("flow_version"), told.get("empirical_policy")
    is_engine = _STARTING.get() is not None and told.keys() == {"flow_version", "empirical_policy"}
    if not is_engine or run_id != lean.run_id or policy is None or policy.retries:
        return False
    if version is not None and version != lean.flow_version:
        lean.shipper.call("PATCH", f"/flow_runs/{run_id}", {"flow_version": version})
    return True


def _mark_starting() -> None:
    """While an engine is before its first state, `_STARTING` is that engine."""
    stock, stock_async = flow_engine.FlowRunEngine.initialize_run, flow_engine.AsyncFlowRunEngine.initialize_run

    @contextmanager
    def initialize(self: Any) -> Iterator[Any]:
        token = _STARTING.set(self)
        with stock(self) as engine:
            _STARTING.reset(token)
            yield engine

    @asynccontextmanager
    async def initialize_async(self: Any) -> AsyncIterator[Any]:
        token = _STARTING.set(self)
        async with stock_async(self) as engine:
            _STARTING.reset(token)
            yield engine

    flow_engine.FlowRunEngine.initialize_run = initialize
    flow_engine.AsyncFlowRunEngine.initialize_run = initialize_async


@expects(
    "prefect.events.worker:EventsWorker.instance",
    "prefect.events.utilities:EventsWorker.instance",
)
def events_leave_at_once(lean: Lean) -> None:
    """
    Events go to the desk in the caller's thread, with what they are related to as the order says: no thread with an
    event loop and a client of its own, and four look-ups less.
    """
    relations = lean.relations
    if relations is None:
        return
    related_to = relations.of

    class Sender:
        client_type = ProcessPoolForwardingEventsClient

        def send(self, event: Any) -> None:
            event.related += related_to(event)
            told = event.model_dump(mode="json")
            lean.learn(told)
            lean.shipper.event(told)

        def wait_until_empty(self) -> None:
            """Nothing waits here."""

    sender = Sender()
    EventsWorker.instance = classmethod(lambda cls, *_, **__: sender)  # type: ignore[method-assign,assignment]


# Waits that are not needed


@expects("prefect.flow_engine:observe_flow_run_suspension(flow_run_id, suspension_request, polling_interval)")
def suspension_comes_by_the_leash(lean: Lean) -> None:
    """Each run opens a websocket and a thread to hear of its suspension; the daemon hears of all, and tells by the leash."""

    @contextmanager
    def observed(*_: Any, **__: Any) -> Iterator[None]:
        yield

    flow_engine.observe_flow_run_suspension = observed


@expects(
    "prefect.flow_engine:_send_heartbeats(engine, join_on_exit)",
    "prefect.flow_engine:BaseFlowRunEngine._build_heartbeat_event_template(self)",
    "prefect.flow_engine:BaseFlowRunEngine.heartbeat_seconds",
)
def desk_sends_heartbeats(lean: Lean) -> None:
    """The engine's heartbeat thread sleeps a second at a time and is waited for. The desk, which sees the process, beats."""

    @contextmanager
    def beating(engine: Any, join_on_exit: bool = True) -> Iterator[None]:
        every_s = engine.heartbeat_seconds
        if every_s is None or engine.flow_run is None:
            yield
            return
        resource, related = engine._build_heartbeat_event_template()
        event = emit_event("prefect.flow-run.heartbeat", resource=resource, related=related)
        run_id = str(engine.flow_run.id)
        if event is not None:
            lean.shipper.beat(run_id, event.model_dump(mode="json"), every_s)
        try:
            yield
        finally:
            lean.shipper.beat(run_id, None, every_s)

    flow_engine._send_heartbeats = beating


@expects(
    "prefect.flow_engine:FlowRunEngine.begin_run(self)",
    "prefect.flow_engine:AsyncFlowRunEngine.begin_run(self)",
)
def running_at_its_time(lean: Lean) -> None:
    """A run that was claimed ahead of its time gets ready meanwhile: it waits where nothing is left but to say Running."""
    start_at, lean.start_at = lean.start_at, None
    if start_at is None:
        return
    stock, stock_async = flow_engine.FlowRunEngine.begin_run, flow_engine.AsyncFlowRunEngine.begin_run

    def begin(self: Any) -> Any:
        while (left_s := start_at - time.time()) > 0:
            time.sleep(left_s)
        return stock(self)

    async def begin_async(self: Any) -> Any:
        while (left_s := start_at - time.time()) > 0:  # noqa: ASYNC110  a timer may end a little early
            await asyncio.sleep(left_s)
        return await stock_async(self)

    flow_engine.FlowRunEngine.begin_run = begin
    flow_engine.AsyncFlowRunEngine.begin_run = begin_async
