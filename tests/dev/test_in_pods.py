"""The benchmark's runs that have to have their cluster made: each is tried, and one that fails is counted."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.dev.bench.cases.in_pods import from_nothing
from flowgroup.dev.bench.figures import PODS
from flowgroup.dev.bench.sides import Bench, Side, Size
from flowgroup.dev.minder import Minded

_AT = "2026-11-25T12:00:%06.3f+00:00"


class Server:
    """Prefect's API, as far as the case asks it. Run `n` is `n` seconds old when its first task begins; `failing` runs fail."""

    def __init__(self, failing: set[str]) -> None:
        self._failing = failing
        self._made = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=self._answer(request))

    def _answer(self, request: httpx.Request) -> Any:
        path, body = request.url.path, request.content.decode()
        run = str(self._made)
        if path.endswith("/create_flow_run"):
            self._made += 1
            return {"id": str(self._made)}
        if path == "/flow_runs/count":
            return int((run in self._failing) == ("FAILED" in body))
        if path == "/flow_run_states/":
            return [{"name": name, "timestamp": _AT % (float(run) / 2)} for name in ("Pending", "Running", "Completed")]
        if path == "/logs/filter":
            return [{"message": f"first task at {1795608000 + int(run)}"}]
        return {
            "created": _AT % 0,
            "name": f"run {run}",
            "state_name": "Failed",
            "state_type": "FAILED",
            "state": {"message": "no phase for 60 s"},
        }


def measured(tmp_path: Path, runs: int, failing: set[str]) -> Any:
    size = Size(singles=1, burst=1, scheduled=1)
    with httpx.Client(base_url="http://api", transport=httpx.MockTransport(Server(failing))) as api:
        bench = Bench(Minded(tmp_path), "http://api", api)
        side = Side(PODS, size, "pool", {f"cold-{n}": "d" for n in range(runs)}, None)  # type: ignore[arg-type]
        return {figure.what: figure for figure in from_nothing(bench, side)}


@pytest.mark.parametrize("failing", [set[str](), {"2"}, {"1", "2", "3", "4"}])
def test_runs_that_fail_are_counted_and_the_others_measured(tmp_path: Path, failing: set[str]) -> None:
    found = measured(tmp_path, 4, failing)
    assert found["no cluster: created → first task on Dask"].values == [
        n for n in (1, 2, 3, 4) if str(n) not in failing
    ]
    failed = found["no cluster: runs that failed"]
    assert failed.values == [100 * len(failing) / 4]
    assert sum(failed.parts.values()) == len(failing)


def test_a_run_that_failed_says_why(tmp_path: Path) -> None:
    (why,) = measured(tmp_path, 2, {"1"})["no cluster: runs that failed"].parts
    assert why == "run 1 is Failed: no phase for 60 s"
