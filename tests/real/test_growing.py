"""Workers that come with the work, on this machine."""

import pytest

from tests.real.stack import Stack

pytestmark = pytest.mark.real


def test_a_run_on_a_cluster_without_workers_gets_them(whole: Stack) -> None:
    own = ("--env", "OF=test_growing")  # a cluster that no other test of this session has
    growing = whole.deploy("lab.py:lab", "growing", "--workers-max", "2", "--idle-timeout-s", "0", *own)
    run = whole.start(growing, what="spreads", with_={"tasks": 4, "seconds": 6})
    assert whole.wait(run, timeout_s=150)["state_name"] == "Completed", whole.message(run)
    found = eval(whole.wait_log(run, "found ")["message"].removeprefix("found "))
    assert found in (["worker-0", "worker-1"], ["worker-0"])  # the second may come when nothing is left to do
    events = [event for event in whole.events("group_scaled") if event["cluster"] == whole.cluster_of(run)]
    scaled = [(event["group"], event["wanted"]) for event in events]
    assert scaled[:2] == [("default", 0), ("default", 1)]
    assert ("default", 2) in scaled
