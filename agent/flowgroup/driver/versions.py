"""
Whether a cluster's processes have the same versions of what they exchange, asked before any user code runs.

In: the scheduler's address. Out: a table of what differs, for the message of the runs' states. It is asked in a process
of its own, as a run is: the desk does not import Dask.
"""

import asyncio
import contextlib
import json
import os
import platform
import signal
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from flowgroup import log
from flowgroup.driver.forks import Fds
from flowgroup.driver.zygote import Run
from flowgroup.model.causes import said

_COMPARED = ("python", "prefect", "dask", "distributed", "cloudpickle", "flowgroup")
_QUESTION = b"compare "
_AT_ONCE = "at-once"
_FIRST_WORKER_S = 10.0
_ANSWER_S = 20.0
_COMPARED_WITHIN_S = 60.0
_SHOWN = 4

Versions = Mapping[str, str]


class Forks(Protocol):
    async def fork(self, attempt: str, order: str, folder: Path, fds: Fds) -> int: ...
    async def ended(self, pid: int) -> int: ...
    def forget(self, pid: int) -> None: ...


async def difference(forks: Forks, address: str, folder: Path, *, waits: bool = True) -> str | None:
    """
    What differs between this driver and the scheduler and workers that are there, as a table with the remedy; None when
    nothing does.

    With `waits` the first worker is waited for, for some seconds. A comparison that fails is logged and keeps no run from
    starting.
    """
    answer = folder / "versions.json"
    nothing = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
    output = os.open(answer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    question = _QUESTION.decode() + (address if waits else f"{address} {_AT_ONCE}")
    pid = await forks.fork("versions", question, folder, Fds(output, *nothing))
    try:
        async with asyncio.timeout(_COMPARED_WITHIN_S):
            await forks.ended(pid)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        await forks.ended(pid)
    finally:
        forks.forget(pid)
    try:
        return table(json.loads(answer.read_text().splitlines()[-1]))
    except (OSError, ValueError, IndexError, AttributeError, TypeError) as exc:
        log.get().warning("versions_not_compared", scheduler=address, reason=f"{type(exc).__name__}: {exc}")
        return None


def or_asked(run: Run) -> Run:
    """What a child does: `run`, unless it was asked to compare versions."""

    def either(order: bytes, leash: int, shipper: int) -> int:
        if not order.startswith(_QUESTION):
            return run(order, leash, shipper)
        print(json.dumps(_found(order.removeprefix(_QUESTION).decode())))
        return 0

    return either


def here() -> dict[str, str]:
    """The versions of this process."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _COMPARED if name != "python"}}


def table(found: Mapping[str, Versions]) -> str | None:
    """`found` is versions by process, `driver` among them. The packages that differ, a line each; None if none does."""
    driver = found["driver"]
    columns = [name for name, theirs in found.items() if _differing(driver, theirs)]
    if not columns:
        return None
    shown = ["driver", *columns[:_SHOWN]]
    rows = sorted({name for column in columns for name in _differing(driver, found[column])})
    width = max(map(len, [*shown, *rows, *(str(found[column].get(row)) for column in shown for row in rows)])) + 2
    lines = ["".join(f"{cell:{width}}" for cell in ("", *shown))]
    lines += [
        "".join(f"{cell:{width}}" for cell in (row, *(found[one].get(row, "?") for one in shown))) for row in rows
    ]
    more = [f"… and {len(columns) - _SHOWN} more workers"] if len(columns) > _SHOWN else []
    told = "\n".join(line.rstrip() for line in [*lines, *more])
    return said("versions-differ", table=told)


def _differing(ours: Versions, theirs: Versions) -> list[str]:
    return [name for name in _COMPARED if name in theirs and _counted(name, ours[name]) != _counted(name, theirs[name])]


def _counted(name: str, version: str) -> str:
    """Of Python the minor version: pickles of functions do not cross it. Of all else everything."""
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _found(address: str) -> dict[str, dict[str, str]]:
    import distributed  # not in the desk

    address, _, at_once = address.partition(" ")
    with distributed.Client(address, set_as_default=False, timeout=_ANSWER_S) as client:
        if not at_once:
            with contextlib.suppress(TimeoutError):
                client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
        told = client.get_versions(packages=["prefect", "flowgroup"])
        names = {address: info["name"] for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
    workers = {str(names.get(address, address)): _told(one) for address, one in told["workers"].items()}
    return {"driver": here(), "scheduler": _told(told["scheduler"]), **workers}


def _told(versions: Mapping[str, Mapping[str, str | None]]) -> dict[str, str]:
    packages = versions["packages"]
    return {name: packages[name] or "missing" for name in _COMPARED if name in packages}
