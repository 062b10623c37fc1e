"""One flow for both task runners: `stock` is Prefect's DaskTaskRunner on the group's own workers, else it is ours."""

import asyncio
import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

import dask
from prefect import allow_failure, flow, get_run_logger, tags, task, unmapped
from prefect.cache_policies import INPUTS
from prefect.futures import as_completed, wait
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.states import Completed
from prefect.task_runners import TaskRunner
from prefect.transactions import transaction
from prefect.utilities.annotations import quote
from prefect_dask import DaskTaskRunner

from flowgroup import get_dask_client

SWITCH = "first"


@task
def add(left: Any, right: int = 1) -> Any:
    return left + right


@task
async def add_async(left: int) -> int:
    await asyncio.sleep(0.01)
    return left + 1


@task
def fails(message: str = "on purpose") -> None:
    raise ValueError(message)


@task
def total(numbers: Any) -> int:
    return sum(numbers.values() if isinstance(numbers, dict) else numbers)


@task
def total_of(one: int, others: list[int]) -> int:
    return one + sum(others)


@task
def switch() -> str:
    return SWITCH


def _described(outcome: Any) -> list[str]:
    return [type(outcome).__name__, str(outcome)]


def _raised(call: Any) -> list[str]:
    try:
        return ["returned", repr(call())]
    except Exception as exc:
        return _described(exc)


def futures() -> dict[str, Any]:
    called: list[Any] = []
    ended = threading.Event()
    future, failed = add.submit(1), fails.submit()
    future.add_done_callback(lambda done: (called.append(done is future), ended.set()))
    many = [add.submit(number) for number in range(4)]
    done, not_done = wait(many, timeout=60)
    future.wait()
    failed.wait()
    return {
        "result": future.result(),
        "again": future.result(timeout=1),
        "state": [future.state.name, failed.state.name, failed.state.message],
        "raised": _raised(failed.result),
        "not raised": _described(failed.result(raise_on_failure=False)),
        "called back": ended.wait(20) and called,
        "wait": [len(done), len(not_done)],
        "as completed": sorted(one.result() for one in as_completed([add.submit(number) for number in range(4)])),
        "too slow": _raised(lambda: sleeps.submit(1.5).result(timeout=0.2))[0],
        "return state": [add.submit(1, return_state=True).name, fails.submit(return_state=True).name],
        "id": str(future.task_run_id) == str(future.state.state_details.task_run_id),
    }


@task
def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def maps() -> dict[str, Any]:
    numbers = add.map([1, 2, 3])
    return {
        "one": numbers.result(),
        "two": add.map([1, 2, 3], [10, 20, 30]).result(),
        "unmapped": add.map([1, 2], right=unmapped(5)).result(),
        "unmapped list": total_of.map([1, 2], unmapped([1, 2, 3])).result(),
        "of futures": add.map(numbers).result(),
        "lengths": _raised(lambda: add.map([1], [1, 2]))[0],
        "nothing": _raised(lambda: add.map(1))[0],
        "a failure": _raised(lambda: fails.map(["a"]).result()),
        "states": [state.name for state in (fails.map(["a", "b"], return_state=True))],
    }


def passes() -> dict[str, Any]:
    one, two, failed = add.submit(1), add.submit(2), fails.submit()
    late = add.submit(one, wait_for=[failed])
    late.wait()
    two.wait()
    waited = add.submit(7, wait_for=[one, two])
    return {
        "list": total.submit([one, two]).result(),
        "dict": total.submit({"a": one, "b": two}).result(),
        "chain": add.submit(add.submit(add.submit(0))).result(),
        "state": add.submit(two.state).result(),
        "waited": waited.result(),
        "not ready": [late.state.name, late.state.type.value],
        "upstream failed": (lambda future: (future.wait(), future.state.name)[1])(add.submit(failed)),
    }


def annotated() -> dict[str, Any]:
    one, failed = add.submit(1), fails.submit()
    failed.wait()
    return {
        "allowed": described.submit(allow_failure(failed)).result(),
        "quoted": total.submit(quote([1, 2])).result(),
        "with a future": described.submit(allow_failure(one)).result(),
    }


@task
def described(outcome: Any) -> list[str]:
    return _described(outcome)


@task(retries=2, retry_delay_seconds=[0.1, 0.3])
def third_time() -> int:
    if task_run.run_count < 3:
        raise ValueError("again")
    return int(task_run.run_count)


@task(retries=3, retry_condition_fn=lambda task, run, state: "again" in state.message)
def conditional(message: str) -> None:
    raise ValueError(f"{message} {task_run.run_count}")


@task(timeout_seconds=0.5)
async def too_slow_async() -> None:
    await asyncio.sleep(30)


@task(timeout_seconds=0.3)
def too_slow() -> None:
    time.sleep(0.6)


def ends() -> dict[str, Any]:
    slow = [too_slow.submit(), too_slow_async.submit()]
    wait(slow)
    return {
        "retried": third_time.submit().result(),
        "retried if": [_raised(conditional.submit(word).result) for word in ("again", "never")],
        "timeout": [future.state.name for future in slow],
        "none": nothing.submit().result(),
        "generator": list(counts.submit(3).result()),
        "says completed": says.submit(return_state=True).message,
        "odd exception": _raised(raises_odd.submit().result)[0],
        "unpicklable": _raised(returns_lock.submit().result)[0] != "returned",
    }


@task
def nothing() -> None:
    return None


@task
def counts(upto: int) -> Any:
    yield from range(upto)


@task
def says() -> Any:
    return Completed(message="said by the task")


class OddError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


@task
def raises_odd() -> None:
    raise OddError(1, 2)


@task
def returns_lock() -> Any:
    return threading.Lock()


@task(cache_policy=INPUTS, persist_result=True)
def cached(number: int, salt: str) -> tuple[int, float]:
    return number, time.time()


@task(persist_result=True)
def persisted() -> str:
    return "kept"


def caches(salt: str) -> dict[str, Any]:
    first = cached.submit(1, salt)
    first.wait()
    second = cached.submit(1, salt)
    same = first.result() == second.result()  # before the record is written anew
    fresh = cached.with_options(refresh_cache=True).submit(1, salt)
    fresh.wait()
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        as_set = cached.submit(1, salt)
    kept = persisted.submit()
    kept.wait()
    return {
        "same": same,
        "names": [first.state.name, second.state.name],
        "refreshed": fresh.result() != first.result(),
        "refreshed by a setting": as_set.result() != fresh.result(),
        "persisted": [kept.result(), type(kept.state.data).__name__, bool(kept.state.data.metadata.storage_key)],
    }


@task(tags=["flowgroup-both-one"])
def span(_: int) -> tuple[float, float]:
    began = time.time()
    time.sleep(0.2)
    return began, time.time()


@task(task_run_name="named-{number}")
def named(number: int) -> str:
    print("printed by the task")
    get_run_logger().warning("logged by the task")
    return str(task_run.name)


def about(folder: str) -> dict[str, Any]:
    spans = sorted(span.map(range(3)).result())
    noted = named.with_options(on_completion=[_noting(folder)], log_prints=True)
    failing = fails.with_options(on_failure=[_noting(folder)], name="renamed")
    with tags("outer"):
        name = noted.submit(7).result()
        tagged = tags_here.submit().result()
    failing.submit().wait()
    return {
        "one at a time": all(one[1] <= two[0] for one, two in itertools.pairwise(spans)),
        "name": name,
        "tags": sorted(tagged),
        "hooks": sorted(path.name for path in Path(folder).iterdir()),
    }


def _noting(folder: str) -> Any:
    def hook(task: Any, run: Any, state: Any) -> None:
        Path(folder).joinpath(f"{task.name} {state.name}").touch()

    return hook


@task
def tags_here() -> list[str]:
    return list(task_run.tags)


@task
def nests(depth: int) -> int:
    return 1 + (nests(depth - 1) if depth else 0)


@task
def submits(number: int) -> int:
    return int(add.submit(number).result()) + sum(add.map([1, 2]).result())


@flow
def inner(number: int) -> int:
    return int(add.submit(number).result())


@task
def runs_a_flow(number: int) -> int:
    return inner(number)


def nested() -> dict[str, Any]:
    return {
        "called": nests.submit(2).result(),
        "submitted": submits.submit(1).result(),
        "flow in a task": runs_a_flow.submit(1).result(),
        "flow in the flow": inner(1),
    }


def lends(count: int) -> list[int]:
    """As many tasks as threads, each waiting for tasks of its own."""
    return [int(number) for number in submits.map(range(count)).result()]


@task
def large(size: int, data: bytes = b"") -> tuple[int, bytes]:
    return len(data), b"x" * size


@task
def where() -> int:
    return os.getpid()


def data() -> dict[str, Any]:
    global SWITCH
    before = switch.submit().result()
    SWITCH = "second"
    ten = 10 * 1024 * 1024
    with dask.annotate(resources={"flowgroup-none": 1}):
        nowhere = where.submit()
    with dask.annotate(priority=5):
        prior = add.submit(1).result()
    return {
        "a changed global": [before, switch.submit().result()],
        "large": (lambda got: [got[0], len(got[1])])(large.submit(ten, b"y" * ten).result()),
        "no such resource": _raised(lambda: nowhere.result(timeout=1))[0],
        "priority": prior,
        "closure": [_adds(number).submit(1).result() for number in (1, 2)],
        "elsewhere": where.submit().result() != os.getpid(),
    }


def _adds(number: int) -> Any:
    @task
    def adds(other: int) -> int:
        return number + other

    return adds


@task
def in_transaction(path: str) -> None:
    with transaction() as whole:
        whole.set("path", path)
        written(path)
        raise ValueError("after it was written")


@task
def written(path: str) -> None:
    Path(path).write_text("written")


@written.on_rollback
def unwritten(whole: Any) -> None:
    Path(whole.get("path")).unlink()


def rolls_back(folder: str) -> dict[str, Any]:
    path = Path(folder, "written")
    return {"raised": _raised(in_transaction.submit(str(path)).result), "left": path.exists()}


@task
def hangs(folder: str) -> None:
    Path(folder, f"hangs-{task_run.id}").touch()
    deadline = time.monotonic() + 120
    while not Path(folder, "over").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def hang(folder: str) -> None:
    hangs.map([folder] * 4).wait()


async def awaits() -> dict[str, Any]:
    several = [add_async.submit(number) for number in range(3)]
    direct = await add_async(5)
    return {
        "several": [future.result() for future in several],
        "direct": direct,
        "sync": add.submit(1).result(),
        "mapped": add_async.map([1, 2]).result(),
        "name": bool(flow_run.name),
    }


def _runner(stock: bool) -> TaskRunner[Any] | None:
    return DaskTaskRunner(address=get_dask_client().scheduler.address) if stock else None


@flow
def case(what: str, with_: dict[str, Any]) -> Any:
    return globals()[what](**with_)


@flow
async def case_async(what: str, with_: dict[str, Any]) -> Any:
    return await globals()[what](**with_)


@flow
def both(what: str, stock: bool, with_: dict[str, Any] | None = None) -> Any:
    runs = case_async if what == "awaits" else case
    if runner := _runner(stock):
        runs = runs.with_options(task_runner=runner)
    found = runs(what, with_ or {})
    found = asyncio.run(found) if asyncio.iscoroutine(found) else found
    get_run_logger().info("found %r", found)
    return found
