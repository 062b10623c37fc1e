"""Open attempts: the relays' levels, over their real sockets, and over a daemon's restart."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowgroup.daemon import attempts as attempts_room
from flowgroup.daemon.attempts import Attempts
from flowgroup.daemon.seals import Seals
from flowgroup.edge import relay_control
from flowgroup.edge.relay_control import OpenAttempt, RelayControl, RelayControls
from flowgroup.errors import Permanent, Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import FIRST_RELAY, AttemptId, ClusterName, FlowId, RelayName, RunId
from flowgroup.model.runs import ClaimedRun, DueRun
from tests.fakes.relay import FakeRelay, extending

CLUSTER = ClusterName("c")


def claimed(name: str) -> ClaimedRun:
    due = DueRun(RunId(f"run of {name}"), name, FlowId("f"), None, datetime.now(UTC), {})
    return ClaimedRun(due, AttemptId(name))


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[FakeRelay]:
    fake = FakeRelay()
    async with fake.serve(tmp_path / "relay.sock"):
        yield fake


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[RelayControls]:
    async def where() -> Endpoint:
        return Endpoint.parse(str(tmp_path / "relay.sock"))

    made = RelayControls((FIRST_RELAY,), lambda _: RelayControl(where, "key", ttl_s=300))
    yield made
    await made.aclose()


async def test_an_open_attempt_is_in_the_relays_level_with_its_tokens_hash_only(
    relay: FakeRelay, control: RelayControls, tmp_path: Path
) -> None:
    attempts = Attempts(control, tmp_path / "attempts.json")
    opened = await attempts.open(claimed("a"), CLUSTER, "s3://b/results/etl")
    hashed = hashlib.sha256(opened.token.encode()).hexdigest()
    assert relay.open["a"] == {
        "attempt": "a",
        "run_id": "run of a",
        "token_sha256": hashed,
        "results": "s3://b/results/etl",
        "ttl_s": 300,
    }
    assert opened.token not in (tmp_path / "attempts.json").read_text()
    assert (tmp_path / "attempts.json").stat().st_mode & 0o777 == 0o600
    await attempts.close(AttemptId("a"))
    assert relay.open == {}


async def test_many_that_open_at_once_are_all_open_and_share_calls(
    relay: FakeRelay, control: RelayControls, tmp_path: Path
) -> None:
    attempts = Attempts(control, tmp_path / "attempts.json")
    await asyncio.gather(*(attempts.open(claimed(str(number)), CLUSTER, None) for number in range(50)))
    assert len(relay.open) == 50
    assert len(relay.calls) < 10


async def test_a_new_daemon_keeps_the_children_of_the_former_one_connected(
    relay: FakeRelay, control: RelayControls, tmp_path: Path
) -> None:
    await Attempts(control, tmp_path / "attempts.json").open(claimed("a"), CLUSTER, None)
    before = dict(relay.open)
    relay.open.clear()
    successor = Attempts(control, tmp_path / "attempts.json")
    async with extending(successor):
        await until(lambda: relay.open == before)
    assert [one.cluster for one in successor.listed()] == [CLUSTER]


async def test_a_relay_that_was_just_started_hears_of_all_attempts_when_one_opens(
    relay: FakeRelay, control: RelayControls, tmp_path: Path
) -> None:
    attempts = Attempts(control, tmp_path / "attempts.json")
    await attempts.open(claimed("a"), CLUSTER, None)
    relay.open.clear()  # it was killed and started again
    await attempts.open(claimed("b"), CLUSTER, None)
    assert set(relay.open) == {"a", "b"}


@pytest.mark.parametrize(("status", "trouble"), [(503, Transient), (401, Permanent), (422, Permanent)])
async def test_a_relay_that_refuses_is_said_when_opening_and_put_off_when_closing(
    relay: FakeRelay, control: RelayControls, tmp_path: Path, status: int, trouble: type[Exception]
) -> None:
    attempts = Attempts(control, tmp_path / "attempts.json")
    await attempts.open(claimed("a"), CLUSTER, None)
    relay.status = status
    with pytest.raises(trouble):
        await attempts.open(claimed("b"), CLUSTER, None)
    await attempts.close(AttemptId("a"))
    relay.status = 204
    await attempts.open(claimed("c"), CLUSTER, None)
    assert set(relay.open) == {"b", "c"}


async def test_without_a_relay_opening_is_transient(control: RelayControls, tmp_path: Path) -> None:
    with pytest.raises(Transient):
        await Attempts(control, tmp_path / "attempts.json").open(claimed("a"), CLUSTER, None)


@pytest.mark.parametrize("text", ["", "not json", "7", "[1]", '[{"attempt":"a"}]', '{"a":1}'])
async def test_a_file_that_cannot_be_read_is_as_none(control: RelayControls, tmp_path: Path, text: str) -> None:
    (tmp_path / "attempts.json").write_text(text)
    assert Attempts(control, tmp_path / "attempts.json").listed() == []


async def test_a_disk_that_is_full_is_transient(relay: FakeRelay, control: RelayControls, tmp_path: Path) -> None:
    attempts = Attempts(control, tmp_path / "missing" / "attempts.json")
    with pytest.raises(Transient, match="cannot write"):
        await attempts.open(claimed("a"), CLUSTER, None)


async def test_the_file_is_what_the_relay_was_told(relay: FakeRelay, control: RelayControls, tmp_path: Path) -> None:
    attempts = Attempts(control, tmp_path / "attempts.json")
    for name in "abc":
        await attempts.open(claimed(name), CLUSTER, None)
    await attempts.close(AttemptId("b"))
    assert {one["attempt"] for one in json.loads((tmp_path / "attempts.json").read_text())} == {"a", "c"}


async def test_without_its_file_the_relay_is_told_nothing_until_the_drivers_have_shown_theirs(
    relay: FakeRelay, control: RelayControls, tmp_path: Path
) -> None:
    seals = Seals("key")
    before = Attempts(control, tmp_path / "attempts.json", seals)
    before.found([])
    opened = await before.open(claimed("a"), CLUSTER, "s3://b/results")
    (tmp_path / "attempts.json").unlink()

    after = Attempts(control, tmp_path / "attempts.json", seals)
    relay.levels.clear()
    assert not after.is_whole
    telling = asyncio.create_task(after.extend())
    opening = asyncio.create_task(after.open(claimed("b"), CLUSTER, None))
    await after.close(AttemptId("c"))
    await asyncio.sleep(0.05)
    assert relay.levels == []
    after.found(after.unsealed([(CLUSTER, opened.seal)]))
    await opening
    telling.cancel()
    assert relay.levels
    assert {frozenset(level) for level in relay.levels} == {frozenset({"a", "b"})}
    assert relay.open["a"]["results"] == "s3://b/results"
    assert Attempts(control, tmp_path / "attempts.json", seals).is_whole


async def test_a_file_that_cannot_be_read_is_a_lost_one(control: RelayControls, tmp_path: Path) -> None:
    (tmp_path / "attempts.json").write_text("[{")
    assert not Attempts(control, tmp_path / "attempts.json", Seals("key")).is_whole


def test_a_seal_opens_for_its_cluster_only_and_cannot_be_made_or_changed() -> None:
    attempt = OpenAttempt(AttemptId("a"), RunId("r"), "0" * 64, None, CLUSTER)
    seals = Seals("key")
    seal = seals.seal(attempt)
    assert seals.opened(seal, CLUSTER) == attempt
    assert seals.opened(seal, ClusterName("another")) is None
    assert Seals("another key").opened(seal, CLUSTER) is None
    said, mac = seal.split(".")
    other = Seals("another key").seal(replace(attempt, results="s3://all")).split(".")[0]
    for wrong in ("", ".", said, f"{said}.", f".{mac}", f"{other}.{mac}", f"{said}.{mac[:-1]}\u00e9", "\u00e9.\u00e9"):
        assert seals.opened(wrong, CLUSTER) is None


# Several relays

OTHER = RelayName("other")


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[FakeRelay]:
    fake = FakeRelay()
    async with fake.serve(tmp_path / "other.sock"):
        yield fake


def _controls(tmp_path: Path, *listed: RelayName) -> RelayControls:
    def control(name: RelayName) -> RelayControl:
        async def where() -> Endpoint:
            return Endpoint.at(tmp_path / f"{name or 'relay'}.sock")

        return RelayControl(where, "key", ttl_s=300)

    return RelayControls(listed, control)


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RelayControls]:
    monkeypatch.setattr(attempts_room, "_EXTEND_EVERY_S", 0.05)
    async with aclosing(_controls(tmp_path, FIRST_RELAY, OTHER)) as made:
        yield made


async def until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_each_relay_is_told_its_own_attempts_and_one_without_any_is_told_that(
    relay: FakeRelay, other: FakeRelay, both: RelayControls, tmp_path: Path
) -> None:
    attempts = Attempts(both, tmp_path / "attempts.json")
    async with extending(attempts):
        await until(lambda: relay.levels == [set()] and other.levels[:1] == [set()])
        await attempts.open(claimed("a"), CLUSTER, None, OTHER)
        assert (set(relay.open), set(other.open)) == (set(), {"a"})
        await attempts.open(claimed("b"), CLUSTER, None)
        assert (set(relay.open), set(other.open)) == ({"b"}, {"a"})
        other.open.clear()  # it was killed and started again
        await until(lambda: set(other.open) == {"a"})
        await attempts.close(AttemptId("a"))
        assert ("DELETE", "/flowgroup/attempts/a") in other.calls
        assert ("DELETE", "/flowgroup/attempts/a") not in relay.calls
        assert other.open == {}
        await attempts.close(AttemptId("unknown"))
        assert all(("DELETE", "/flowgroup/attempts/unknown") in one.calls for one in (relay, other))


@pytest.mark.parametrize("how", ["refuses connections", "never answers", "is in trouble"])
async def test_a_relay_that_is_away_holds_up_no_other(
    relay: FakeRelay, both: RelayControls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(relay_control, "_TIMEOUT_S", 300.0)
    attempts = Attempts(both, tmp_path / "attempts.json")
    troubled = FakeRelay(status=503)
    async with AsyncExitStack() as stack:
        if how == "never answers":
            deaf = stack.enter_context(socket.socket(socket.AF_UNIX))
            deaf.bind(str(tmp_path / "other.sock"))
            deaf.listen(100)
        elif how == "is in trouble":
            await stack.enter_async_context(troubled.serve(tmp_path / "other.sock"))
        await stack.enter_async_context(extending(attempts))
        opening = asyncio.create_task(attempts.open(claimed("a"), CLUSTER, None, OTHER))
        async with asyncio.timeout(20.0):
            for number in range(5):
                await attempts.open(claimed(f"b{number}"), CLUSTER, None)
            told = len(relay.levels)
            await until(lambda: len(relay.levels) > told + 3)
            await attempts.close(AttemptId("b0"))
        assert set(relay.open) == {f"b{number}" for number in range(1, 5)}
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)


async def test_attempts_at_a_relay_that_is_not_listed_any_more_go_on_until_they_end(
    relay: FakeRelay, other: FakeRelay, both: RelayControls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Attempts(both, tmp_path / "attempts.json").open(claimed("a"), CLUSTER, None, OTHER)
    async with aclosing(_controls(tmp_path, FIRST_RELAY)) as fewer:
        successor = Attempts(fewer, tmp_path / "attempts.json")
        told = len(other.levels)
        async with extending(successor):
            await until(lambda: len(other.levels) > told + 2)
            assert set(other.open) == {"a"}
            assert relay.levels[-1] == set()
            await successor.close(AttemptId("a"))
            assert other.open == {}
            told = len(relay.levels)
            await until(lambda: len(relay.levels) > told + 3)
            assert other.levels[-1] == {"a"}  # told no more: the last word was that it is closed


async def test_a_seal_remembers_the_relay_and_one_of_before_is_the_first_ones(
    relay: FakeRelay, other: FakeRelay, both: RelayControls, tmp_path: Path
) -> None:
    seals = Seals("key")
    before = Attempts(both, tmp_path / "attempts.json", seals)
    before.found([])
    opened = await before.open(claimed("a"), CLUSTER, None, OTHER)
    (tmp_path / "attempts.json").unlink()
    after = Attempts(both, tmp_path / "attempts.json", seals)
    after.found(after.unsealed([(CLUSTER, opened.seal)]))
    async with extending(after):
        await until(lambda: len(other.levels) > 1 and len(relay.levels) > 0)
    assert (set(relay.open), set(other.open)) == (set(), {"a"})
    (tmp_path / "old.json").write_text(
        json.dumps([{"attempt": "z", "run_id": "r", "token_sha256": "0", "results": None, "cluster": "c"}])
    )
    assert [one.relay for one in Attempts(both, tmp_path / "old.json").listed()] == [FIRST_RELAY]
