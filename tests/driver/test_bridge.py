"""What tasks say on a worker reaches their child in order, several things in one message."""

import asyncio
import threading
from typing import Any

import pytest

from flowgroup.driver.bridge import Bridge
from flowgroup.driver.topics import topic_of


class FakeLoop:
    """As tornado's, on the test's own event loop."""

    def __init__(self) -> None:
        self.asyncio_loop = asyncio.get_running_loop()
        self.woken = 0

    def add_callback(self, fn: Any, *args: Any) -> None:
        self.woken += 1
        self.asyncio_loop.call_soon_threadsafe(fn, *args)

    def call_later(self, delay_s: float, fn: Any, *args: Any) -> None:
        self.asyncio_loop.call_later(delay_s, fn, *args)


class FakeWorker:
    """Records what it was told to log; `answers` what a call is answered with."""

    address = "tcp://worker"

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.handlers: dict[str, Any] = {}
        self.loop = FakeLoop()
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self._answers = answers

    def log_event(self, topic: str, message: dict[str, Any]) -> None:
        self.logged.append((topic, message))
        if message["kind"] == "call" and self._answers is not None:
            (handler,) = self.handlers.values()
            self.loop.asyncio_loop.create_task(handler(call=message["call"], answer=self._answers))

    def said(self, owner: str) -> list[Any]:
        return [one for topic, message in self.logged if topic == topic_of(owner) for one in message.get("said", [])]


async def until(is_so: Any) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


async def test_what_a_task_said_leaves_in_one_message_when_it_ends() -> None:
    worker = FakeWorker()
    bridge = Bridge(worker)  # type: ignore[arg-type]

    def task() -> None:
        for number in range(4):
            bridge.say("Client-1", "event", str(number))
        bridge.flush("Client-1")

    await asyncio.to_thread(task)
    await until(lambda: worker.logged)
    assert [message["said"] for _, message in worker.logged] == [[("event", str(number)) for number in range(4)]]


async def test_what_a_long_task_says_does_not_wait_for_its_end() -> None:
    worker = FakeWorker()
    bridge = Bridge(worker)  # type: ignore[arg-type]
    bridge.say("Client-1", "log", "first")
    await until(lambda: worker.said("Client-1") == [("log", "first")])
    await until(lambda: not bridge._looking)
    bridge.say("Client-1", "log", "much later")
    await until(lambda: worker.said("Client-1")[1:] == [("log", "much later")])


async def test_a_storm_wakes_the_workers_loop_once_a_task() -> None:
    worker = FakeWorker()
    bridge = Bridge(worker)  # type: ignore[arg-type]
    for number in range(100):
        bridge.say("Client-1", "event", str(number))
        bridge.say("Client-1", "event", str(number))
        bridge.flush("Client-1")
    assert worker.loop.woken == 101
    await until(lambda: len(worker.said("Client-1")) == 200)


async def test_each_run_hears_its_own_in_order_from_many_threads() -> None:
    worker = FakeWorker()
    bridge = Bridge(worker)  # type: ignore[arg-type]

    def task(owner: str) -> None:
        for number in range(200):
            bridge.say(owner, "event", number)
        bridge.flush(owner)

    threads = [threading.Thread(target=task, args=(f"Client-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        await until(lambda number=number: len(worker.said(f"Client-{number}")) == 200)
        assert worker.said(f"Client-{number}") == [("event", one) for one in range(200)]
    for thread in threads:
        thread.join()


async def test_a_call_goes_after_what_was_said_and_is_answered() -> None:
    worker = FakeWorker({"status": 200, "headers": {}, "body": b"part"})
    bridge = Bridge(worker)  # type: ignore[arg-type]
    bridge.say("Client-1", "log", "before")
    answer = await asyncio.to_thread(bridge.ask, "Client-1", "/flowgroup/parts/abc")
    assert answer["body"] == b"part"
    assert [message["kind"] for _, message in worker.logged] == ["said", "call"]


async def test_a_child_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgroup.driver.bridge._CALL_TIMEOUT_S", 0.01)
    bridge = Bridge(FakeWorker())  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(bridge.ask, "Client-1", "/flowgroup/parts/abc")
    assert not bridge._waiting
