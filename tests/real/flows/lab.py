"""One flow that does what a test asks for, so that one cluster serves many tests."""

import asyncio
import ctypes
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import helper
from prefect import flow, get_run_logger, task
from prefect.blocks.system import Secret
from prefect.cache_policies import INPUTS
from prefect.deployments import run_deployment
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.runtime import flow_run, task_run
from prefect.variables import Variable


@task
def where(number: int) -> tuple[int, int]:
    get_run_logger().info("task %d is in process %d", number, os.getpid())
    return number, os.getpid()


@task(tags=["flowgroup-one-at-a-time"])
def span(_: int) -> tuple[float, float]:
    began = time.time()
    time.sleep(0.3)
    return began, time.time()


@task(cache_policy=INPUTS, persist_result=True)
def doubled(number: int, salt: str) -> int:
    get_run_logger().info("computed %s", salt)
    return 2 * number


@task
def secrets() -> dict[str, Any]:
    names = [name for name in os.environ if name.startswith("PREFECT_API") or "TOKEN" in name]
    secret = Secret.load("flowgroup-test").get()
    return {"secret": secret, "backwards": secret[::-1], "variable": Variable.get("flowgroup_test"), "names": names}


@task
def large(size: int) -> bytes:
    return b"x" * size


@task
def point(x: int) -> helper.Point:
    return helper.Point(x)


@task
def lazy(p: helper.Point) -> tuple[int, bool]:
    import helper as again

    return again.version(), isinstance(p, again.Point)


@task
def failing() -> None:
    raise ValueError("this task fails")


@task(retries=2)
def flaky() -> int:
    if task_run.run_count < 3:
        raise ValueError("again")
    return int(task_run.run_count)


@task
async def later(number: int) -> int:
    await asyncio.sleep(0.05)
    return number + 1


@task
def nested(number: int) -> int:
    return int(later.submit(number).result())


@flow
def inner(number: int) -> int:
    return int(later.submit(number).result())


@flow
def inner_sleeps(seconds: float) -> None:
    time.sleep(seconds)


def tasks_on_dask(salt: str = "") -> dict[str, Any]:
    spans = sorted(future.result() for future in span.map(range(3)))
    p = point.submit(4)
    failed = failing.submit()
    failed.wait()
    return {
        "pids": sorted({pid for _, pid in where.map(range(4)).result()}),
        "own": os.getpid(),
        "serial": all(one[1] <= two[0] for one, two in itertools.pairwise(spans)),
        "cached": [doubled.submit(21, salt).result(), doubled.submit(21, salt).result()],
        "secrets": secrets.submit().result(),
        "large": len(large.submit(8_000_000).result()),
        "same_class": isinstance(p.result(), helper.Point),
        "lazy": list(lazy.submit(p).result()),
        "failed": failed.state.name,
        "flaky": flaky.submit().result(),
        "later": later.submit(1).result(),
        "nested": nested.submit(1).result(),
        "inner": inner(1),
        "waited": later.submit(5, wait_for=[p]).result(),
    }


def dask_itself() -> int:
    from flowgroup import get_dask_client

    return int(get_dask_client().submit(lambda x: helper.Point(x).x + 1, 41).result())


@task(persist_result=False)
def my_worker() -> str:
    from distributed import get_worker

    return str(get_worker().name)


@task(persist_result=False)
def napping(number: int, seconds: float) -> tuple[int, str]:
    time.sleep(seconds)
    return number, my_worker.fn()


@task(persist_result=False, tags=["dask-resource:GPU=1"])
def tagged(number: int) -> tuple[int, str]:
    return number, my_worker.fn()


def on_tags() -> dict[str, list[str]]:
    """Names of the workers that took tasks whose own tags, or the tags around them, ask for a GPU; and of plain ones."""
    from prefect import tags

    own = tagged.map(range(4))
    with tags("dask-resource:GPU=1"):
        around = napping.map(range(4), seconds=0.5)
    plain = napping.map(range(4, 8), seconds=0.5)
    told = {"own": own, "around": around, "plain": plain}
    return {name: [worker for _, worker in futures.result()] for name, futures in told.items()}


def spreads(tasks: int, seconds: float, after: str = "") -> list[str]:
    """On which workers so many tasks were, all sent once the file `after` is there (if any)."""
    deadline = time.monotonic() + 150
    while after and not Path(after).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return sorted({name for _, name in napping.map(range(tasks), seconds=seconds).result()})


def _workers_now() -> list[str]:
    from flowgroup import get_dask_client

    there = get_dask_client().run_on_scheduler(
        lambda dask_scheduler: [ws.name for ws in dask_scheduler.workers.values()]
    )
    return sorted(there)


def outlives_workers(size: int, many: int, left: int) -> dict[str, Any]:
    """Results are made on `many` workers, and fetched only when all but `left` of these have gone."""
    from distributed import wait

    from flowgroup import get_dask_client

    client, deadline = get_dask_client(), time.monotonic() + 150
    while len(_workers_now()) < many and time.monotonic() < deadline:
        client.gather(client.map(lambda _: time.sleep(1), range(4 * many), pure=False))
    made = client.map(lambda number: (time.sleep(0.2), number, bytes(size)), range(20), pure=False)
    with client.as_current():
        wait(made)
    before = _workers_now()
    while len(_workers_now()) > left and time.monotonic() < deadline:
        time.sleep(0.5)
    results = client.gather(made)
    return {"before": before, "after": _workers_now(), "results": [(number, len(body)) for _, number, body in results]}


def on_resources(resources: dict[str, float]) -> dict[str, list[str]]:
    """Names of the workers that took tasks which ask for resources: Prefect's and Dask's own."""
    import dask
    from distributed import get_worker

    from flowgroup import get_dask_client

    with dask.annotate(resources=resources):
        ours = [my_worker.submit() for _ in range(4)]
        plain = [get_dask_client().submit(lambda _: str(get_worker().name), n, pure=False) for n in range(4)]
        return {"prefect": [future.result() for future in ours], "dask": [future.result() for future in plain]}


def _is_reached(address: str) -> bool:
    import socket

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True


def reaches(addresses: list[str]) -> dict[str, list[bool]]:
    """Which of these addresses can be dialled from the run's process, and from a worker."""
    from flowgroup import get_dask_client

    mine = [_is_reached(address) for address in addresses]
    # By value: Dask's own client knows nothing of the run's modules.
    theirs = [get_dask_client().submit(lambda one: _is_reached(one), address) for address in addresses]
    return {"run": mine, "worker": [future.result() for future in theirs]}


def _look(names: list[str], files: list[str], modules: list[str]) -> dict[str, Any]:
    import importlib.util

    read = {file: Path(file).read_text() if Path(file).is_file() else None for file in files}
    found = {module: importlib.util.find_spec(module) is not None for module in modules}
    words = {f"{name} digest": os.environ[name] for name in names if name.endswith("_WORD") and name in os.environ}
    digests = {name: hashlib.sha256(word.encode()).hexdigest()[:12] for name, word in words.items()}  # logs mask words
    return {**{name: os.environ.get(name) for name in names}, **digests, **read, **found}


def finds(names: list[str], files: list[str], modules: list[str]) -> dict[str, Any]:
    """What the run's process, and a worker, have of these variables, files and modules."""
    from flowgroup import get_dask_client

    asked = names, files, modules
    return {"run": _look(*asked), "worker": get_dask_client().submit(lambda: _look(*asked)).result()}


def surroundings() -> dict[str, Any]:
    return {
        "cwd": str(Path.cwd()),
        "stdin": sys.stdin.read(),
        "pid": os.getpid(),
        "tmp": os.environ["TMPDIR"],
        "mark": os.environ.get("LAB_MARK"),
        "files": sorted(path.name for path in Path().iterdir()),
    }


def hash_seed() -> list[Any]:
    return [os.environ.get("PYTHONHASHSEED"), hash("flowgroup")]


def marks(mark: str) -> list[str | None]:
    """Changes what belongs to the process, and looks whether anybody else's changes show."""
    os.environ["LAB_MARK"] = mark
    Path("mark.txt").write_text(mark)
    time.sleep(2)
    return [os.environ["LAB_MARK"], Path("mark.txt").read_text()]


def segfault() -> None:
    print("about to crash", flush=True)
    ctypes.string_at(0)


def exits(code: int) -> None:
    print("the last line before the end", flush=True)
    os._exit(code)


def endless_c(pattern: str = "(a+)+$") -> None:
    import re

    re.match(pattern, "a" * 60 + "b")


def ignores_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.5)


def leaves_children() -> list[int]:
    stay = [sys.executable, "-c", "import time; time.sleep(600)"]
    return [subprocess.Popen(stay).pid, subprocess.Popen(stay, start_new_session=True).pid]


def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def waits_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.05)


def sleeps_then_dies(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(9)


@task
def sleeping(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleeps_on_dask(seconds: float) -> float:
    return float(sleeping.submit(seconds).result())


def prints_slowly(lines: int, pause_s: float) -> None:
    for number in range(lines):
        print(f"line {number}")
        time.sleep(pause_s)


def prints(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}")


def parent_of_sleeper(seconds: float) -> None:
    inner_sleeps(seconds)


def deploys(deployment: str) -> str:
    child = run_deployment(
        deployment, parameters={"what": "sleeps", "with_": {"seconds": 0.1}}, timeout=60, poll_interval=0.3
    )
    return str(child.state.name)


def reads_variable(name: str) -> Any:
    return Variable.get(name)


def reads_secret(name: str) -> Any:
    return len(Secret.load(name).get())


def reads_run(id: str) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(uuid.UUID(id)).name)


def pauses() -> str:
    pause_flow_run(timeout=60, poll_interval=1)
    return "went on"


def walks(steps: int) -> str:
    for number in range(steps):
        where(number)
        time.sleep(0.2)
    return "was not stopped"


def suspends() -> str:
    suspend_flow_run(timeout=60)
    return "went on in another process"


def fails() -> None:
    raise RuntimeError("the flow fails on purpose")


def eats(mebibytes: int) -> None:
    eaten = [b"x" * (1 << 20) for _ in range(mebibytes)]
    time.sleep(30)
    print(len(eaten))


@task
def gobbles(mebibytes: int) -> int:
    return sum(len(part) for part in [b"x" * (1 << 20) for _ in range(mebibytes)])


def eats_on_dask(mebibytes: int) -> int:
    return int(gobbles.submit(mebibytes).result())


@flow(log_prints=True, persist_result=True)
def lab(what: str, with_: dict[str, Any] | None = None) -> Any:
    found = globals()[what](**(with_ or {}))
    get_run_logger().info("found %r", found)
    return found


def _noted(hook: str) -> Any:
    def note(flow: Any, run: Any, state: Any) -> None:
        get_run_logger().info("hook %s saw %s", hook, state.name)

    return note


lab.on_completion_hooks.append(_noted("on_completion"))
lab.on_failure_hooks.append(_noted("on_failure"))
lab.on_cancellation_hooks.append(_noted("on_cancellation"))


@flow(retries=1, retry_delay_seconds=0)
def twice() -> int:
    if flow_run.run_count < 2:
        raise RuntimeError("the first time it fails")
    return int(flow_run.run_count)


@flow(timeout_seconds=1)
def too_slow() -> None:
    time.sleep(20)
