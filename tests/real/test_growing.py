"""Workers that come with the work, on this machine."""

from pathlib import Path

import pytest

from tests.real.stack import Stack, wait_for

pytestmark = pytest.mark.real


def test_a_run_on_a_cluster_without_workers_gets_them(whole: Stack, tmp_path: Path) -> None:
    own = ("--env", "OF=test_growing")  # a cluster that no other test of this session has
    growing = whole.deploy("lab.py:lab", "growing", "--workers-max", "2", "--idle-timeout-s", "0", *own)
    seen_empty = tmp_path / "seen-empty"
    run = whole.start(growing, what="spreads", with_={"tasks": 4, "seconds": 6, "after": str(seen_empty)})
    whole.wait(run, "Running", timeout_s=150)
    wait_for(lambda: _scaled(whole, run) == [("default", 0)], "its cluster is known to need no workers")
    seen_empty.touch()
    assert whole.wait(run, timeout_s=150)["state_name"] == "Completed", whole.message(run)
    found = eval(whole.wait_log(run, "found ")["message"].removeprefix("found "))
    assert found in (["worker-0", "worker-1"], ["worker-0"])  # the second may come when nothing is left to do
    scaled = _scaled(whole, run)
    assert scaled[:2] == [("default", 0), ("default", 1)]
    assert ("default", 2) in scaled


def _scaled(at: Stack, run: str) -> list[tuple[str, int]]:
    """How large the run's cluster was to be, one after the other."""
    events = [event for event in at.events("group_scaled") if event["cluster"] == at.cluster_of(run)]
    return [(event["group"], event["wanted"]) for event in events]
