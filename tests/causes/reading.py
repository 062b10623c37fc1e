"""From the recorded words of Kubernetes, a driver, Dask or the kernel to what is said: by the code that does it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker, WorkerState

from flowgroup.daemon.diagnose import outcome_of
from flowgroup.driver.lost import Lost
from flowgroup.driver.versions import table
from flowgroup.edge.kubernetes import client, diagnose, seen
from flowgroup.edge.kubernetes.rules import refused
from flowgroup.edge.oom import Cgroup
from flowgroup.model.causes import said
from flowgroup.model.orders import Exit
from flowgroup.model.runs import Crashed

NOW = 1795579540.0  # 2026-11-25 04:05:40 UTC


def told(source: str, given: Any, code: str) -> str:
    """What is said of `given`; `source` says which reader gets it. `code` is for causes that nobody has to recognise."""
    if source == "said":
        return said(code, **given)
    found = _READERS[source](given)
    assert found is not None
    return str(found)


def _crashes(item: Any) -> str:
    pod = seen.pod(item)
    entry = diagnose.crashes(pod)
    assert entry
    return diagnose.crashed(pod, entry, by_name=True)


def _events(given: Any) -> str:
    told = [(one["reason"], one["message"]) for one in given["events"]]
    found = diagnose.of_events(seen.pod(given["pod"]), told)
    assert found
    return found[0]


def _losses(items: Any) -> str:
    (why,) = diagnose.losses(map(seen.pod, items), now=NOW).values()
    return why


def _answer(given: Any) -> str:
    return str(client._trouble("create pods", "jobs", httpx.Response(given["code"], json=given["body"])))


def _exit(given: Any) -> str:
    fields = dict(given)
    if "cause_of" in fields:
        code, facts = fields.pop("cause_of")
        fields["cause"] = said(code, **facts)
    outcome = outcome_of(Exit(**fields), cancelled=False)
    assert isinstance(outcome, Crashed)
    return outcome.reason


def _kill(given: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "self").mkdir()
        (root / "self" / "cgroup").write_text("0::/\n")
        _write(root, given["before"])
        cgroup = Cgroup.of(root=root, proc=root)
        before = cgroup.counters()
        _write(root, given["after"])
        code = cgroup.code_since(before)
        assert code
        return said(code, who=given["who"], limit=cgroup.limit(), peak=cgroup.peak())


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).write_text(text)


def _dask(given: Any) -> str:
    """The answer of the daemon comes into the file, as it would from the desk."""
    why = diagnose.losses(map(seen.pod, given["losses"]), now=NOW)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "losses.json"
        lost = Lost(lambda: file.write_text(json.dumps(why)), file, patience_s=0.3)
        found = lost.explained(_exception(given))
        assert found
        return found


def _exception(given: Any) -> BaseException:
    if given["exception"] == "FutureCancelledError":
        return FutureCancelledError(*given["args"])
    task, worker, allowed = given["args"]
    state = WorkerState(
        address="tcp://10.1.0.7:40001",
        status="closed",  # type: ignore[arg-type]
        pid=7,
        nthreads=1,
        local_directory="/tmp",
        nanny=None,
        server_id="w",
        **worker,
    )
    return KilledWorker(task, state, allowed)


_READERS = {
    "ended": lambda given: diagnose.ended(seen.pod(given), now=NOW),
    "gone": lambda given: diagnose.gone(seen.pod(given) if given else None, "driver"),
    "waits": lambda given: diagnose.waits(seen.pod(given)),
    "crashes": _crashes,
    "events": _events,
    "losses": _losses,
    "answer": _answer,
    "deployment": lambda given: refused("the scheduler's pod may not be made", seen.replica_failure(given)),
    "exit": _exit,
    "kill": _kill,
    "dask": _dask,
    "versions": table,
}
