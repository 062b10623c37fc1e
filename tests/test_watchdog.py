"""A blocked event loop is said, with the stack that blocks it; one that turns is not."""

import asyncio
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from flowgroup import watchdog
from flowgroup.watchdog import Seen, watched


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_EVERY_S", 0.02)


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.01)


def hold_the_loop_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)


async def test_the_log_has_the_stack_of_what_blocks_the_loop_and_says_when_it_is_over() -> None:
    blocked: list[int] = []
    with (
        capture_logs() as logs,
        watched(asyncio.get_running_loop(), Seen(blocked=lambda: blocked.append(1)), blocked_s=0.1),
    ):
        hold_the_loop_until(lambda: bool(blocked))
        await _until(lambda: any(entry["event"] == "event_loop_turns_again" for entry in logs))
    (said,) = [entry for entry in logs if entry["event"] == "event_loop_blocked"]
    assert "hold_the_loop_until" in said["stack"]
    assert blocked == [1]


async def test_a_loop_that_turns_is_measured_and_not_said() -> None:
    lags: list[float] = []
    with capture_logs() as logs, watched(asyncio.get_running_loop(), Seen(lag=lags.append), blocked_s=20.0):
        await _until(lambda: len(lags) >= 3)
    assert all(0 <= lag < 20 for lag in lags)
    assert logs == []


async def test_nobody_watches_after_the_block() -> None:
    lags: list[float] = []
    with watched(asyncio.get_running_loop(), Seen(lag=lags.append)):
        await _until(lambda: bool(lags))
    await _until(lambda: not any(thread.name == "watchdog" for thread in watchdog.threading.enumerate()))
