"""Open attempts: the relay's level, over its real socket, and over a daemon's restart."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowgroup.daemon.attempts import Attempts
from flowgroup.daemon.seals import Seals
from flowgroup.edge.relay_control import OpenAttempt, RelayControl, RelayControls
from flowgroup.errors import Permanent, Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import FIRST_RELAY, AttemptId, ClusterName, FlowId, RunId
from flowgroup.model.runs import ClaimedRun, DueRun
from tests.fakes.relay import FakeRelay

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
    extending = asyncio.create_task(successor.extend())
    await asyncio.sleep(0.1)
    extending.cancel()
    assert relay.open == before
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
