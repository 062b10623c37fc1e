"""
One flow run, in a process of its own.

In: an order. Out: what the engine tells Prefect's API through the desk, notes on the leash, an exit status. This is the
only place where user code is unpickled or imported.
"""

import asyncio
import atexit
import contextlib
import faulthandler
import inspect
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect._internal.metrics import RunMetrics
from prefect.client.schemas.objects import FlowRun
from prefect.engine import handle_engine_signals
from prefect.events.worker import EventsWorker
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.flow_engine import load_flow, load_flow_run, run_flow
from prefect.logging.handlers import APILogWorker
from prefect.logging.loggers import flow_run_logger
from pydantic import ValidationError

from flowgroup import bundles
from flowgroup.driver import engine, installed, lean, losses, oskit, spawns, words
from flowgroup.driver.brief import Brief
from flowgroup.driver.fetch import fetch
from flowgroup.driver.leash import Leash
from flowgroup.driver.lost import Lost
from flowgroup.driver.own import of_flow
from flowgroup.driver.related import Relations
from flowgroup.driver.results import GroupStorage
from flowgroup.driver.settle import settle
from flowgroup.driver.shipper import Shipper
from flowgroup.errors import Refused
from flowgroup.model.bundle import MAX_BUNDLE_BYTES
from flowgroup.model.causes import code_of, marked, said
from flowgroup.model.orders import BundleCode, Order
from flowgroup.settings import needs_new_process, set_environment, spare_loopback

REFUSED = 65  # the exit status of a child that would not run its code; the cause is on the leash


def run(brief_bytes: bytes, leash_fd: int, shipper_fd: int) -> int:
    """Run one order in this process, which is nobody else's. The working folder is the current directory."""
    brief = Brief.model_validate_json(brief_bytes)
    if needs_new_process(brief.env):
        _execute(brief, leash_fd, shipper_fd)
    oskit.adopt_orphans()  # what the run starts stays below it until it ends (`family.py`)
    faulthandler.enable()  # a crash in native code says where, in the output that the state's message quotes
    settle(brief.env, set_environment(brief.env), quickly=brief.lean)
    spare_loopback()
    run_id = UUID(brief.order.run_id)
    leash = Leash(leash_fd)
    leash.listen(cancel=engine.commit_cancel, suspend=lambda: engine.suspend(run_id))
    words.hide(brief.order.secret_env)
    shipper = Shipper(shipper_fd)
    engine.ship_through(shipper)
    if brief.lean:
        lean.apply(_known(brief.order, shipper))
    lost = Lost(lambda: leash.say(asks=True), Path.cwd().parents[1] / losses.NAME)
    if brief.scheduler is not None:
        engine.explain(lost.explained)
    try:
        return _run(brief, leash, shipper)
    finally:
        _say_imported(leash)
        leash.say(reported=engine.outcome_is_reported())
        _drain(shipper)


def _known(order: Order, shipper: Shipper) -> lean.Lean:
    """What the engine need not ask, or wait for."""
    relations = Relations.told(order.run_id, order.related) if order.related is not None else None
    if relations is not None:
        engine.relate(order.run_id, [resource.model_dump() for resource in relations.resources])
    return lean.Lean(
        run_id=UUID(order.run_id),
        shipper=shipper,
        start_at=order.start_at,
        relations=relations,
        storage_is_known=order.is_default_result_storage_known,
        default_storage=UUID(order.default_result_storage) if order.default_result_storage else None,
        flow_version=(order.flow_run or {}).get("flow_version"),
        learn=engine.learn,
    )


def _say_imported(leash: Leash) -> None:
    """The desk makes templates of it: what later runs will not have to import."""
    for names in installed.news():
        leash.say(imported=names)


def _execute(brief: Brief, leash_fd: int, shipper_fd: int) -> None:
    """Become a new process, for what Python, Dask or the linker read only when they start."""
    fd = spawns.brief_file(brief.model_dump_json())
    for kept in (fd, leash_fd, shipper_fd):
        os.set_inheritable(kept, True)
    set_environment(brief.env)
    os.execv(sys.executable, spawns.command(fd, leash_fd, shipper_fd))  # noqa: S606


def _run(brief: Brief, leash: Leash, shipper: Shipper) -> int:
    order = brief.order
    run_id = UUID(order.run_id)
    folder = Path.cwd() / "code"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with handle_engine_signals(run_id):
        flow_run = _flow_run(brief, run_id)
        logger: Any = flow_run_logger(flow_run=flow_run)
        try:
            flow = _load(order, flow_run, folder, leash)
        except Refused as exc:
            cause = str(exc) if code_of(str(exc)) else marked("bundle-refused", str(exc))
            logger.error("%s", cause)  # noqa: TRY400  it is the author's to read, and says all
            leash.say(phase="refused", cause=cause)
            return REFUSED
        except Exception as exc:  # user code, imported for the first time: whatever it raises is this run's outcome
            logger.exception("The flow's code could not be loaded")
            leash.say(cause=said("code-not-loaded", said=f"{type(exc).__name__}: {exc}", help=_remedy(exc)))
            return REFUSED
        _say_imported(leash)
        if order.results and flow.result_storage is None:
            flow.result_storage = GroupStorage(root=order.results)
        with _tasks_on_dask(brief, shipper, flow, folder):
            if not (brief.lean and lean.running_at_its_time in lean.fitting()):
                _wait_until(order.start_at)
            with RunMetrics(flow_run, flow), _cause_said(leash):
                _drive(flow, run_flow(flow, flow_run=flow_run, error_logger=logger))
    return 0


def _flow_run(brief: Brief, run_id: UUID) -> FlowRun:
    """The run as it was claimed, which came with the order; or as the API has it."""
    if brief.lean and brief.order.flow_run is not None:
        with contextlib.suppress(ValidationError):  # of another version of Prefect's API
            return FlowRun.model_validate(brief.order.flow_run)
    return load_flow_run(run_id)


def _load(order: Order, flow_run: FlowRun, folder: Path, leash: Leash) -> Any:
    """The flow, from its bundle or as Prefect's deployment says. Refused if it must not be run."""
    leash.say(phase="running")
    if isinstance(order.code, BundleCode):
        packed = fetch(order.code.fetch, limit_bytes=MAX_BUNDLE_BYTES)
        return bundles.open_bundle(
            packed,
            order.code.ref,
            public_keys=order.code.public_keys,
            deployment=order.code.deployment,
            version=order.code.version,
            into=folder,
        )
    flow = load_flow(flow_run)
    sys.path.insert(0, str(Path.cwd()))  # Prefect has it there only while it loads: later imports look here too
    return flow


@contextlib.contextmanager
def _cause_said(leash: Leash) -> Iterator[None]:
    """What ends the engine before it could tell the API is told by the daemon, so the daemon must know it."""
    try:
        yield
    except Exception as exc:
        if not engine.outcome_is_reported():
            leash.say(cause=said("flow-not-run", said=f"{type(exc).__name__}: {exc}", help=_remedy(exc)))
        raise


def _remedy(exc: Exception) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return (
            f"Install {exc.name!r} where the driver runs, or keep it beside the flow's file so that it travels with it."
        )
    if isinstance(exc, (SignatureMismatchError, ParameterTypeError)):
        return "Correct the parameters of the run or of its deployment."
    return "The run's log has the traceback."


@contextlib.contextmanager
def _tasks_on_dask(brief: Brief, shipper: Shipper, flow: Any, folder: Path) -> Iterator[None]:
    """Send the tasks of flows that name no task runner to the group's workers, if it has any."""
    if brief.scheduler is None:
        yield
        return
    from flowgroup.driver.tasks import (
        Connection,
        GroupTaskRunner,
    )  # distributed is not needed without workers

    address, own = brief.scheduler, of_flow(flow, folder)
    engine.replace_default_runner(lambda: GroupTaskRunner(address, own))
    with Connection(address, shipper, brief.env["PREFECT_API_URL"], brief.order.token, own):
        yield


def _wait_until(moment: float | None) -> None:
    while moment is not None and (left := moment - time.time()) > 0:
        time.sleep(left)


def _drive(flow: Any, result: Any) -> None:
    """Run what `run_flow` only prepared: an async flow's coroutine, a generator flow's items."""
    if inspect.isasyncgen(result):

        async def consume() -> None:
            async for _ in result:
                pass

        asyncio.run(consume())
    elif inspect.iscoroutine(result):
        asyncio.run(result)
    elif inspect.isgenerator(result):
        for _ in result:
            pass


def _drain(shipper: Shipper) -> None:
    """Everything that the run said is with the desk before the process ends; a forked child has no normal exit."""
    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=30)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    shipper.close()
