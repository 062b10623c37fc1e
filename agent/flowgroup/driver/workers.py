"""
What runs on the group's Dask workers: a task of a run, without any credential.

A task's logs, events and API calls go over Dask to the child that sent it (`bridge.py`). They leave in the task's own
thread, before its result does, so that the child has them when it sees the result.
"""

import asyncio
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

import httpx
import prefect.context
from prefect.context import FlowRunContext, SettingsContext, TaskRunContext
from prefect.task_engine import run_task_async, run_task_sync
from prefect.utilities.collections import visit_collection
from pydantic import SecretStr

from flowgroup.driver import engine, frames, imports, lean_tasks
from flowgroup.driver.parts import PARTS_PATH, Shelf
from flowgroup.driver.pickles import dumped_if_small
from flowgroup.driver.sent import Upstream, Work

_REMEMBERED_RUNS = 10_000
_TOLD_BYTES = 16 * 1024  # a larger state is fetched by who wants it


class ToChild(Protocol):
    """The way to the child that sent a task."""

    def say(self, owner: str, kind: str, body: Any) -> None: ...
    def flush(self, owner: str) -> None: ...
    def ask(self, owner: str, path: str) -> dict[str, Any]: ...


OWNER: ContextVar[str | None] = ContextVar("flowgroup_owner", default=None)
"""The Dask client of the child whose task this thread runs."""
DEPTH: ContextVar[int] = ContextVar("flowgroup_depth", default=0)
FRAME: ContextVar[bytes | None] = ContextVar("flowgroup_frame", default=None)
"""What the context of the task that this thread runs was made from."""
_TASKS: Counter[str] = Counter()  # tasks of each owner that run here now
_COUNTING = Lock()
_OWNERS: OrderedDict[str, str] = OrderedDict()  # flow run id -> owner, for threads that a task started
_shelf = Shelf()
_child: ToChild
_api_url = ""

_release: Callable[[str], None] = lambda _: None  # noqa: E731


def start(child: ToChild, *, lean: bool) -> None:
    """On a worker, once, before its first task."""
    global _release, _child, _api_url
    _child, _api_url = child, _current_api_url()
    imports.install()
    _release = engine.keep_slots_apart(owner_of_this_context)
    if lean:
        lean_tasks.apply()


def run_task(work: Work, *upstream: Any) -> Any:
    """Run one Prefect task here; its final state is the result. `upstream` are the states of what it waits for."""
    owner = work.owner
    if work.flow_run_id:
        _remember(work.flow_run_id, owner)
    with _working_for(owner, work.depth), imports.of_run(_code(owner, work.names)):
        arguments = _arguments(work, upstream)
        with frames.settings_of(arguments["context"], _settings(owner)), lean_tasks.client_of(owner):
            state = _run(arguments)
        if work.told and (told := dumped_if_small(state, _TOLD_BYTES)):
            _child.say(owner, "state", [str(arguments["task_run_id"]), told])
    return state


def _run(arguments: dict[str, Any]) -> Any:
    if arguments["task"].isasync:
        return asyncio.run(run_task_async(**arguments))
    return run_task_sync(**arguments)


def _arguments(work: Work, upstream: tuple[Any, ...]) -> dict[str, Any]:
    """What Prefect's task engine is called with. Made anew for each task run: tasks do not share what they change."""

    def ask(digest: str) -> bytes | None:
        answer = _child.ask(work.owner, f"{PARTS_PATH}/{digest}")
        return answer["body"] if answer["status"] == httpx.codes.OK else None

    task = pickle.loads(_shelf.take(work.code, ask))  # noqa: S301  made by the run's own child
    frame = _shelf.take(work.frame, ask)
    FRAME.set(frame)
    call = pickle.loads(work.call)  # noqa: S301
    return {
        "task": task,
        "task_run_id": call["task_run_id"],
        "parameters": _with_states(call["parameters"], upstream),
        "wait_for": _with_states(call["wait_for"], upstream),
        "dependencies": call["dependencies"],
        "context": {**pickle.loads(frame), **call["context"]},  # noqa: S301
        "return_type": "state",
    }


@contextmanager
def _working_for(owner: str, depth: int) -> Iterator[None]:
    """What is kept for an owner goes when the last of its tasks here has ended."""
    tokens = OWNER.set(owner), DEPTH.set(depth), FRAME.set(None)
    with _COUNTING:
        _TASKS[owner] += 1
    try:
        yield
    finally:
        _child.flush(owner)
        OWNER.reset(tokens[0])
        DEPTH.reset(tokens[1])
        FRAME.reset(tokens[2])
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


def is_foreign() -> bool:
    """Whether this thread runs a task that a stock DaskTaskRunner sent: it brought its run's settings, and reports itself."""
    return owner_of_this_context() is None and _current_api_url() != _api_url


def flow_run_id() -> str | None:
    """The flow run whose code this thread runs, if Prefect knows."""
    flow_context, task_context = FlowRunContext.get(), TaskRunContext.get()
    if flow_context and flow_context.flow_run:
        return str(flow_context.flow_run.id)
    return str(task_context.task_run.flow_run_id) if task_context and task_context.task_run.flow_run_id else None


def _current_api_url() -> str:
    return str(prefect.context.get_settings_context().settings.api.url)


def _remember(run_id: str, owner: str) -> None:
    with _COUNTING:
        _OWNERS[run_id] = owner
        _OWNERS.move_to_end(run_id)
        while len(_OWNERS) > _REMEMBERED_RUNS:
            _OWNERS.popitem(last=False)


@lru_cache(maxsize=256)
def _code(owner: str, names: frozenset[str]) -> imports.Code:
    """The modules of the run whose child is `owner`."""

    def fetch(name: str) -> bytes | None:
        answer = _child.ask(owner, f"{imports.MODULES_PATH}/{name}")
        if answer["status"] == httpx.codes.INTERNAL_SERVER_ERROR:
            raise ImportError(f"{name} cannot be imported: {answer['body'].decode()}", name=name)
        return None if answer["status"] == httpx.codes.NOT_FOUND else bytes(answer["body"])

    return imports.Code(names, fetch)


@lru_cache(maxsize=256)
def _settings(owner: str) -> SettingsContext:
    """The worker's settings with the owner's name as API key: it is no secret, it tells the bridge whose calls these are."""
    own = prefect.context.get_settings_context()
    # Not by `copy_with_update`, which reads and checks every setting anew: 40 ms.
    api = own.settings.api.model_copy(update={"key": SecretStr(owner)})
    settings = own.settings.model_copy(update={"api": api})
    return SettingsContext(profile=own.profile, settings=settings)


def _with_states(value: Any, upstream: tuple[Any, ...]) -> Any:
    def visit(item: Any) -> Any:
        return upstream[item.index] if isinstance(item, Upstream) else item

    return visit_collection(value, visit_fn=visit, return_data=True) if upstream else value
