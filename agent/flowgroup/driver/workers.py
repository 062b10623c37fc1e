"""
What runs on the group's Dask workers: a task of a run, without any credential.

A task's logs, events and API calls go over Dask to the child that sent it (`bridge.py`). They leave in the task's own
thread, before its result does, so that the child has them when it sees the result.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import cloudpickle
import httpx
import prefect.context
from prefect.context import FlowRunContext, SettingsContext, TaskRunContext
from prefect.settings import PREFECT_API_KEY
from prefect.task_engine import run_task_async, run_task_sync
from prefect.utilities.collections import visit_collection

from flowgroup.driver import engine, imports

_REMEMBERED_RUNS = 10_000


@dataclass(frozen=True)
class Upstream:
    """The place of a task's input among the arguments that Dask resolves."""

    index: int


OWNER: ContextVar[str | None] = ContextVar("flowgroup_owner", default=None)
"""The Dask client of the child whose task this thread runs."""
_TASKS: Counter[str] = Counter()  # tasks of each owner that run here now
_COUNTING = Lock()
_OWNERS: OrderedDict[str, str] = OrderedDict()  # flow run id -> owner, for threads that a task started


_release: Callable[[str], None] = lambda _: None  # noqa: E731


def run_task(payload: bytes, *upstream: Any) -> Any:
    """Run one Prefect task here; its final state is the result. `upstream` are the states of what it waits for."""
    work: dict[str, Any] = cloudpickle.loads(payload)
    owner: str = work["owner"]  # the child's Dask client
    if work["flow_run_id"]:
        _remember(work["flow_run_id"], owner)
    arguments = {
        "task": work["task"],
        "task_run_id": work["task_run_id"],
        "parameters": _with_states(work["parameters"], upstream),
        "wait_for": _with_states(work["wait_for"], upstream),
        "dependencies": work["dependencies"],
        "context": work["context"],
        "return_type": "state",
    }
    with (
        _working_for(owner),
        imports.of_run(_code(owner, work["names"])),
        SettingsContext(profile=prefect.context.get_settings_context().profile, settings=_settings(owner)),
    ):
        return asyncio.run(run_task_async(**arguments)) if work["task"].isasync else run_task_sync(**arguments)


@contextmanager
def _working_for(owner: str) -> Iterator[None]:
    """What is kept for an owner goes when the last of its tasks here has ended."""
    token = OWNER.set(owner)
    with _COUNTING:
        _TASKS[owner] += 1
    try:
        yield
    finally:
        OWNER.reset(token)
        with _COUNTING:
            _TASKS[owner] -= 1
            if not _TASKS[owner]:
                del _TASKS[owner]
                _release(owner)


def owner_of_this_context() -> str | None:
    """Whose logs, events and calls these are: by the thread's context, else by the run that Prefect says we are in."""
    owner = OWNER.get()
    return owner or _OWNERS.get(flow_run_id() or "")


def owner_of(run_id: str | None) -> str | None:
    return _OWNERS.get(run_id or "")


def flow_run_id() -> str | None:
    """The flow run whose code this thread runs, if Prefect knows."""
    flow_context, task_context = FlowRunContext.get(), TaskRunContext.get()
    if flow_context and flow_context.flow_run:
        return str(flow_context.flow_run.id)
    return str(task_context.task_run.flow_run_id) if task_context and task_context.task_run.flow_run_id else None


def _remember(run_id: str, owner: str) -> None:
    _OWNERS[run_id] = owner
    _OWNERS.move_to_end(run_id)
    while len(_OWNERS) > _REMEMBERED_RUNS:
        _OWNERS.popitem(last=False)


@lru_cache(maxsize=256)
def _code(owner: str, names: frozenset[str]) -> imports.Code:
    """The modules of the run whose child is `owner`."""

    def fetch(name: str) -> bytes | None:
        address = str(prefect.context.get_settings_context().settings.api.url).removesuffix("/api")
        answer = httpx.get(
            f"{address}{imports.MODULES_PATH}/{name}", headers={"Authorization": f"Bearer {owner}"}, timeout=120
        )
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise ImportError(f"{name} cannot be imported: {answer.text}", name=name)
        return None if answer.status_code == httpx.codes.NOT_FOUND else answer.raise_for_status().content

    return imports.Code(names, fetch)


def start() -> None:
    """On a worker, once, before its first task."""
    global _release
    imports.install()
    _release = engine.keep_slots_apart(owner_of_this_context)


@lru_cache(maxsize=256)
def _settings(owner: str) -> Any:
    """The worker's settings with the owner's name as API key: it is no secret, it tells the bridge whose calls these are."""
    return prefect.context.get_settings_context().settings.copy_with_update(updates={PREFECT_API_KEY: owner})


def _with_states(value: Any, upstream: tuple[Any, ...]) -> Any:
    def visit(item: Any) -> Any:
        return upstream[item.index] if isinstance(item, Upstream) else item

    return visit_collection(value, visit_fn=visit, return_data=True) if upstream else value
