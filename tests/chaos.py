"""
Every fault that can be made here, and what came of it: `make chaos`, and the table in `docs/chaos.md`. Those with real parts
are one after the other, and beside them those with fakes.

A row is a fault, the tests that make it, and how many seeds or kills they are given. What a test prints after "figure: " stands
in the table. `CASES="kill*"` runs some rows; the others keep what they had.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_TABLE, _RESULTS = _ROOT / "docs" / "chaos.md", _ROOT / "chaos.json"
_FIGURE = "figure: "
_MOST_S = 900
_writing = threading.Lock()


@dataclass(frozen=True)
class Row:
    """`is_real`: with real processes and a real Prefect server; else with fakes, most of it in virtual time."""

    name: str
    fault: str
    must_hold: str
    tests: tuple[str, ...]
    is_real: bool = False
    env: dict[str, str] = field(default_factory=dict)


ROWS = (
    Row(
        "kill points",
        "the daemon is killed at each of its named points",
        "no run lost, none twice, on its way within 30 s",
        ("tests/daemon/test_crash_points.py",),
        env={"FLOWGROUP_TEST_SEEDS": "1000"},
    ),
    Row(
        "kill real",
        "`kill -9` of the daemon while runs arrive, at random moments and at points",
        "by the flow's own ledger: none lost, none twice; on their way within 30 s of the restart",
        ("tests/real/test_kills.py",),
        is_real=True,
        env={"FLOWGROUP_TEST_KILLS": "12", "FLOWGROUP_TEST_RUNS": "80"},
    ),
    Row(
        "anything",
        "polls, claims, crashes, restarts, faults, cancellations and doubles in any order",
        "the invariants after every step",
        ("tests/daemon/test_truth.py",),
        env={"FLOWGROUP_TEST_STORIES": "100"},
    ),
    Row(
        "two daemons",
        "one is ended, killed, stopped for a minute, cut off from Kubernetes or from Prefect; answers are lost",
        "never two executions, the other one leads within 15 s",
        (
            "tests/daemon/test_stand_by.py",
            "tests/edge/kubernetes/test_leader.py",
            "tests/daemon/test_drivers_fenced.py",
        ),
        env={"FLOWGROUP_CHAOS_SEEDS": "40"},
    ),
    Row(
        "two daemons real",
        "on one machine: SIGSTOP, `kill -9` and SIGTERM of the one that leads",
        "runs under way go on, each once; the other one leads within 15 s",
        ("tests/real/test_stand_by.py",),
        is_real=True,
    ),
    Row(
        "relay and cluster killed",
        "`kill -9` of the relay under load, of drivers, schedulers and workers",
        "no line lost or doubled; a run ends with the reason, the next one has a cluster",
        ("tests/real/test_restart.py",),
        is_real=True,
    ),
    Row(
        "hostile runs",
        "runs that ignore SIGTERM, hang in C, leave children in other sessions, block on I/O, hang in a Dask task",
        "cancelled within 30 s with all that they started, others on the cluster go on",
        ("tests/real/test_cancel.py",),
        is_real=True,
    ),
    Row(
        "api away for an hour",
        "500, 503, 401, black hole, lost answers for an hour (virtual time)",
        "no line or state lost or out of order, nothing ends of it",
        ("tests/daemon/test_long_outage.py", "tests/relay/test_long_outage.py", "tests/daemon/test_probes.py"),
    ),
    Row(
        "api in trouble",
        "429, Retry-After, 413, refusals for ever, late and lost answers, budgets",
        "records in order and once, a refused one alone is set aside",
        (
            "tests/relay/spool/test_delivery.py",
            "tests/relay/spool/test_property.py",
            "tests/relay/test_proxy_outage.py",
        ),
    ),
    Row(
        "malformed",
        "the API's, Kubernetes', drivers' and children's answers, files and settings, changed at random",
        "an error of ours or an answer, never the end of a process; a bad item costs no good one",
        ("tests/fuzz",),
        env={"FLOWGROUP_FUZZ_CASES": "100000"},
    ),
    Row(
        "power lost",
        "the spool's files are cut at every write",
        "what was acknowledged is there",
        ("tests/relay/spool/test_disk.py", "tests/relay/spool/test_writer.py"),
    ),
    Row(
        "kubernetes in trouble",
        "answers that are late, lost, 409, 410, 429, 5xx; quotas, denials; objects that come and go",
        "what cannot be seen is not dead; nothing made twice, nothing left",
        (
            "tests/edge/kubernetes/test_backend.py",
            "tests/edge/kubernetes/test_causes.py",
            "tests/edge/kubernetes/test_janitor.py",
            "tests/daemon/test_holes.py",
        ),
    ),
    Row(
        "infrastructure fails",
        "clusters that do not come up, evictions, quotas",
        "tried again up to the limit, each try said; then all causes",
        ("tests/daemon/test_again.py", "tests/causes"),
    ),
    Row(
        "too much",
        "1,000 runs at once with few slots, 300 at one deployment's limit, caps",
        "another deployment waits for at most 5 s, no cap is passed",
        ("tests/daemon/test_back_pressure.py", "tests/daemon/test_caps.py", "tests/daemon/test_claims.py"),
    ),
    Row(
        "store in trouble",
        "a store that is away, refuses, or has what is not whole",
        "that run says so; asked again where it may help",
        ("tests/test_store.py", "tests/daemon/test_shelf.py", "tests/driver/test_reaching_the_store.py"),
    ),
    Row(
        "a blocked loop",
        "something blocks the event loop",
        "its stack is in the log",
        ("tests/test_watchdog.py",),
    ),
)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("cases", nargs="*", help="patterns of rows' names")
    patterns = asked.parse_args().cases or ["*"]
    results = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else {}
    wanted = [row for row in ROWS if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]
    began = time.monotonic()
    with ThreadPoolExecutor(2) as lanes:
        real, fakes = [row for row in wanted if row.is_real], [row for row in wanted if not row.is_real]
        for _ in lanes.map(lambda rows: one_by_one(rows, results), (real, fakes)):
            pass
    print(f"{len(wanted)} rows in {time.monotonic() - began:.0f} s", flush=True)
    return int(any(results[row.name]["failed"] for row in wanted))


def one_by_one(rows: list[Row], results: dict[str, dict[str, object]]) -> None:
    """Adds to the results, and writes them and the table anew after each row."""
    for row in rows:
        print(f"• {datetime.now(UTC):%H:%M:%S} {row.name}: {row.fault}", flush=True)
        result = made(row)
        with _writing:
            results[row.name] = result
            print(f"    {row.name}: {said(result)}", flush=True)
            _RESULTS.write_text(json.dumps(results, indent=1))
            _TABLE.write_text(table(results))


def made(row: Row) -> dict[str, object]:
    """Make the fault. Every seed that a test was given stands in its name or its figures."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not e2e", "-o", "junit_logging=system-out"]
        if not row.is_real:  # its time is virtual, or short: seeds may be beside each other
            command += ["-n", "2", "--dist", "load"]
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*command, "--junitxml", str(report), *row.tests],
                cwd=_ROOT,
                env={**os.environ, **row.env},
                capture_output=True,
                text=True,
                check=False,
                timeout=_MOST_S,
            )
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(command, 1, "", f"not done after {_MOST_S} s")
        took_s = time.monotonic() - began
        tests = [*ET.parse(report).iter("testcase")] if report.exists() else []  # our own file
    failed = [f"{one.get('classname')}::{one.get('name')}" for one in tests if _is_bad(one)]
    if done.returncode and not failed:
        failed = [done.stdout[-500:] + done.stderr[-500:]]
    if failed:
        print(done.stdout[-4000:])
    lines = [line for one in tests for line in (one.findtext("system-out") or "").splitlines()]
    return {
        "tests": len(tests) - sum(one.find("skipped") is not None for one in tests),
        "failed": failed,
        "seconds": round(took_s),
        "figures": [line.partition(_FIGURE)[2] for line in lines if _FIGURE in line] or _sizes(row),
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def _sizes(row: Row) -> list[str]:
    return [f"{value} {name.rpartition('_')[2].lower()}" for name, value in row.env.items()]


def _is_bad(test: ET.Element) -> bool:
    return test.find("failure") is not None or test.find("error") is not None


def said(result: dict[str, object]) -> str:
    failed = result["failed"]
    return f"{result['tests']} tests, {len(failed) if isinstance(failed, list) else 0} failed, {result['seconds']} s"


def table(results: dict[str, dict[str, object]]) -> str:
    lines = [
        "# Faults, and what came of them",
        "",
        f"Written by `make chaos`: {os.cpu_count()} cores, Python {sys.version.split()[0]}. What is not real is with fakes,",
        "most of it in virtual time. Outages of the API on the wire have [a table of their own](outage.md).",
        "",
        "| fault | must hold | parts | tests | failed | seconds | figures | measured |",
        "|---|---|---|---:|---:|---:|---|---|",
    ]
    for row in ROWS:
        if row.name not in results:
            lines.append(f"| {row.fault} | {row.must_hold} | {_parts(row)} | not run yet | | | | |")
            continue
        got = results[row.name]
        failed, figures = got["failed"], got["figures"]
        assert isinstance(failed, list)
        assert isinstance(figures, list)
        shown = "; ".join(figures) or " "
        lines.append(
            f"| {row.fault} | {row.must_hold} | {_parts(row)} | {got['tests']} | {len(failed)} | {got['seconds']} | {shown} "
            f"| {got['measured']} |"
        )
    return "\n".join([*lines, ""])


def _parts(row: Row) -> str:
    return "real" if row.is_real else "fakes"


if __name__ == "__main__":
    sys.exit(main())
