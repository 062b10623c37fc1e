"""The desk's outbox between real sockets and a relay that can be told to fail."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.driver import outbox as module
from flowgroup.driver.outbox import Mailbag, Outbox
from flowgroup.driver.shipper import Shipper
from flowgroup.model.endpoint import Endpoint


@dataclass
class FakeRelay:
    """`failures` are answered first: a status, or an error to raise. `batches` is what was taken, `calls` the other calls."""

    failures: list[Any] = field(default_factory=list)
    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    calls: list[tuple[str, str, Any, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)  # of records, those that failed included

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/flowgroup/records":
            self.bodies.append(json.loads(request.content))
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure if isinstance(failure, httpx.Response) else httpx.Response(failure)
        body = json.loads(request.content)
        if request.url.path == "/flowgroup/records":
            self.batches.append(body["attempts"])
        else:
            self.calls.append((request.method, request.url.path, body, request.headers["authorization"]))
        return httpx.Response(200)

    def messages(self, token: str) -> list[str]:
        return [
            log["message"]
            for batch in self.batches
            for one in batch
            if one["token"] == token
            for log in one.get("logs", [])
        ]

    def events(self) -> list[dict[str, Any]]:
        return [event for batch in self.batches for one in batch for event in one.get("events", [])]


@dataclass
class Box:
    outbox: Outbox
    relay: FakeRelay
    tasks: asyncio.TaskGroup

    def child(self, token: str) -> tuple[Shipper, Mailbag]:
        ours, theirs = socket.socketpair()
        bag = Mailbag(token)
        self.tasks.create_task(self.outbox.collect(ours, bag))
        return Shipper(theirs.detach()), bag

    async def all_of(self, shipper: Shipper, bag: Mailbag) -> None:
        shipper.close()
        async with asyncio.timeout(10):
            await bag.is_over.wait()
        assert await self.outbox.emptied(bag, 10)


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    relay = FakeRelay()
    async with httpx.AsyncClient(transport=httpx.MockTransport(relay.answer)) as client, asyncio.TaskGroup() as tasks:
        outbox = Outbox(client, Endpoint.at(Path("relay.sock")))
        sending = tasks.create_task(outbox.run())
        yield Box(outbox, relay, tasks)
        sending.cancel()


async def test_what_all_children_say_goes_together(box: Box) -> None:
    children = [box.child(f"token-{number}") for number in range(20)]
    for number, (shipper, _) in enumerate(children):
        shipper.log({"message": f"a {number}"})
        shipper.event({"event": "e"})
        shipper.log({"message": f"b {number}"})
    for shipper, bag in children:
        await box.all_of(shipper, bag)
    for number in range(20):
        assert box.relay.messages(f"token-{number}") == [f"a {number}", f"b {number}"]
    assert len(box.relay.batches) <= 6


@pytest.mark.parametrize("failure", [503, 429, 500, httpx.ConnectError("no relay"), httpx.ReadTimeout("slow")])
async def test_a_batch_is_sent_until_it_is_taken(box: Box, failure: Any) -> None:
    box.relay.failures = [failure, failure]
    shipper, bag = box.child("t")
    shipper.log({"message": "it"})
    await box.all_of(shipper, bag)
    assert box.relay.messages("t") == ["it"]


async def test_a_batch_that_is_sent_again_has_the_same_number_and_the_next_one_another(box: Box) -> None:
    box.relay.failures = [503, httpx.ReadError("the relay was killed")]
    for message in ("a", "b"):
        shipper, bag = box.child("t")
        shipper.log({"message": message})
        shipper.event({"event": message})
        await box.all_of(shipper, bag)
    told = [
        (kind, body["desk"], body["number"])
        for body in box.relay.bodies
        for kind in body["attempts"][0]
        if kind != "token"
    ]
    assert len({desk for _, desk, _ in told}) == 1
    for kind in ("logs", "events"):
        numbers = [number for of, _, number in told if of == kind]
        assert numbers == sorted(numbers)
        assert set(numbers) == {1, 2}
    assert len(told) == 6


async def test_the_relay_says_how_long_to_wait(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    nap = asyncio.sleep

    async def quick(seconds: float) -> None:
        naps.append(seconds)
        await nap(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", quick)
    box.relay.failures = [httpx.Response(503, headers={"retry-after": "40"})]
    shipper, bag = box.child("t")
    shipper.log({"message": "it"})
    await box.all_of(shipper, bag)
    assert max(naps) >= 40
    assert box.relay.messages("t") == ["it"]


async def test_a_batch_that_is_refused_for_ever_does_not_stop_the_others(box: Box) -> None:
    box.relay.failures = [422]
    shipper, bag = box.child("t")
    shipper.log({"message": "refused"})
    async with asyncio.timeout(10):
        while box.relay.failures:
            await asyncio.sleep(0.01)
    shipper.log({"message": "taken"})
    await box.all_of(shipper, bag)
    assert box.relay.messages("t") == ["taken"]


async def test_nonsense_from_user_code_is_left_out(box: Box) -> None:
    ours, theirs = socket.socketpair()
    bag = Mailbag("t")
    box.tasks.create_task(box.outbox.collect(ours, bag))
    theirs.sendall(
        b'[1]\nnonsense\n{"log": {"mess\n\n{}\n{"beat": 3}\n{"call": []}\n{"other": 1}\n{"log": {"message": "ok"}}\n'
    )
    theirs.close()
    async with asyncio.timeout(10):
        await bag.is_over.wait()
    assert await box.outbox.emptied(bag, 10)
    assert box.relay.messages("t") == ["ok"]


async def test_a_child_that_is_far_ahead_waits(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING_BYTES", 100_000)
    box.relay.failures = [503] * 3
    shipper, bag = box.child("t")
    count = 400

    def write() -> None:
        for number in range(count):
            shipper.log({"message": f"{number} " + "x" * 5000})

    await asyncio.to_thread(write)
    await box.all_of(shipper, bag)
    assert [int(message.split()[0]) for message in box.relay.messages("t")] == list(range(count))
    assert box.outbox._bytes == 0


async def test_batches_stay_below_what_the_relay_takes(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 10_000)
    shipper, bag = box.child("t")
    for number in range(30):
        await asyncio.to_thread(shipper.log, {"message": f"{number} " + "x" * 1000})
    await box.all_of(shipper, bag)
    assert all(len(json.dumps(batch)) < 12_000 for batch in box.relay.batches)
    assert len(box.relay.messages("t")) == 30


async def test_heartbeats_go_on_until_the_child_says_so_or_ends(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    nap = asyncio.sleep

    async def quick(seconds: float) -> None:
        naps.append(seconds)
        await nap(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", quick)
    shipper, bag = box.child("t")
    event = {"id": "first", "occurred": "then", "event": "prefect.flow-run.heartbeat", "resource": {"a": "b"}}
    shipper.beat("run", event, 180)
    async with asyncio.timeout(10):
        while len(box.relay.events()) < 3:
            await nap(0.01)
    assert 180 in naps
    found = box.relay.events()
    assert {one["event"] for one in found} == {"prefect.flow-run.heartbeat"}
    assert len({one["id"] for one in found} | {"first"}) == len(found) + 1
    shipper.beat("run", None, 180)
    async with asyncio.timeout(10):
        while bag.beats:
            await nap(0.01)
    shipper.beat("other", event, 180)
    await box.all_of(shipper, bag)
    assert all(beat.cancelled() or beat.cancelling() for beat in bag.beats.values())


async def test_a_call_that_nobody_waits_for_is_made_with_the_attempts_token(box: Box) -> None:
    box.relay.failures = [503]
    shipper, bag = box.child("t")
    shipper.call("PATCH", "/flow_runs/1", {"flow_version": "2"})
    await box.all_of(shipper, bag)
    assert box.relay.calls == [("PATCH", "/api/flow_runs/1", {"flow_version": "2"}, "Bearer t")]
