"""The whole line behind proxies: Cloud's paths and rate limits, and no websockets at all."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from flowgroup.dev.front import Front, serving
from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real
ACCOUNT = "/api/accounts/11111111-1111-1111-1111-111111111111/workspaces/22222222-2222-2222-2222-222222222222"


def made(front: Front, pool: str, env: dict[str, str]) -> Iterator[tuple[Stack, Front]]:
    with (
        serving(front),
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(front.url, Path(folder), pool, env=env, seen_at=f"{front.server}/api") as whole,
    ):
        yield whole, front


@pytest.fixture(scope="module")
def cloud(prefect_api: str) -> Iterator[tuple[Stack, Front]]:
    """Behind Cloud's paths, a key, and a proxy that answers every seventh call with 429."""
    front = Front(prefect_api.removesuffix("/api"), prefix=ACCOUNT, key="pnu_of-the-test", limited_every=7)
    yield from made(front, "cloud", {"PREFECT_API_KEY": "pnu_of-the-test"})


@pytest.fixture(scope="module")
def polled(prefect_api: str) -> Iterator[tuple[Stack, Front]]:
    """Behind a proxy that refuses websockets."""
    yield from made(Front(prefect_api.removesuffix("/api"), websockets=False), "polled", {})


@pytest.fixture(scope="module")
def slow(prefect_api: str) -> Iterator[tuple[Stack, Front]]:
    """Behind a proxy that carries out every run's first Running late, and a relay that holds no call for so long."""
    front = Front(prefect_api.removesuffix("/api"), slow_s=8.0)
    yield from made(front, "slow", {"FLOWGROUP_RELAY_HOLD_S": "2"})


def test_runs_complete_behind_clouds_paths_a_key_and_rate_limits(cloud: tuple[Stack, Front]) -> None:
    whole, front = cloud
    plain = whole.deploy("lab.py:lab", "cloud", env={"PREFECT_API_KEY": "pnu_of-the-test"})
    runs = [whole.start(plain, what="prints", with_={"lines": 2}) for _ in range(3)]
    for run in runs:
        assert whole.wait(run, timeout_s=120)["state_name"] == "Completed"
        whole.wait_log(run, "line 1")
    assert front.limited > 0
    assert front.refused == []


def test_without_websockets_the_poll_alone_starts_and_cancels(polled: tuple[Stack, Front]) -> None:
    whole, _ = polled
    plain = whole.deploy("lab.py:lab", "polled")
    first = whole.start(plain, what="sleeps", with_={"seconds": 0})
    assert whole.wait(first)["state_name"] == "Completed"
    long = whole.start(plain, what="sleeps", with_={"seconds": 60})
    whole.wait(long, "Running", timeout_s=20)
    whole.cancel(long)
    assert whole.wait(long, timeout_s=20)["state_name"] == "Cancelled"


def test_a_deployments_limit_holds_and_blocks_nobody_else(whole: Stack, plain: str, tmp_path: Path) -> None:
    limited = whole.deploy("lab.py:lab", "one-at-a-time", "--concurrency-limit", "1")
    gate = tmp_path / "gate"
    first = whole.start(limited, what="waits_for", with_={"file": str(gate)})
    whole.wait(first, "Running")
    second = whole.start(limited, what="sleeps", with_={"seconds": 0})
    wait_for(lambda: "AwaitingConcurrencySlot" in whole.states(second), "the second waits for its slot")
    other = whole.start(plain, what="sleeps", with_={"seconds": 0})
    assert whole.wait(other)["state_name"] == "Completed"
    assert whole.run(second)["state_type"] == "SCHEDULED"
    gate.touch()
    assert whole.wait(first)["state_name"] == "Completed"
    assert whole.wait(second)["state_name"] == "Completed"
    ended = next(state for state in whole.history(first) if state["type"] == "COMPLETED")["timestamp"]
    began = next(state for state in whole.history(second) if state["type"] == "RUNNING")["timestamp"]
    assert began >= ended


def test_a_running_that_is_carried_out_late_is_not_sent_again_and_lands_on_nothing(slow: tuple[Stack, Front]) -> None:
    whole, front = slow
    run = whole.start(
        whole.deploy("page.py:page", "slow")
    )  # its result is not persisted, so the server takes a late Running
    assert whole.wait(run)["state_name"] == "Completed"
    wait_for(lambda: front.landed, "the first Running is carried out")
    assert whole.states(run) == ["Scheduled", "Pending", "Running", "Completed"]
    assert whole.run(run)["state_name"] == "Completed"
    assert whole.run(run)["run_count"] == 1
