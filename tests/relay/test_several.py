"""
Two relays as processes of their own and the daemon's attempts over them: each admits its own children only, and one that
is killed and comes back holds up nobody.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.daemon import attempts as attempts_room
from flowgroup.daemon.attempts import Attempts
from flowgroup.edge.relay_control import RelayControl, RelayControls
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import FIRST_RELAY, AttemptId, ClusterName, FlowId, RelayName, RunId, Token
from flowgroup.model.runs import ClaimedRun, DueRun
from tests.fakes.relay import extending
from tests.fakes.upstream import Failure, FakeAPI, fake_api
from tests.relay.serving import CONTROL_KEY, an_id, waits
from tests.relay.test_process import relay_process

SECOND = RelayName("second")
BOTH = (FIRST_RELAY, SECOND)


@dataclass
class Relays:
    """`told` are what the relays get on their standard input beside what is common to all tests."""

    folder: Path
    told: dict[str, Any]
    pids: dict[RelayName, int] = field(default_factory=dict)

    def socket(self, name: RelayName) -> Path:
        return self.folder / (name or "first") / "relay.sock"

    @contextmanager
    def one(self, name: RelayName) -> Iterator[None]:
        with relay_process("--uds", str(self.socket(name)), secrets=self.told) as started:
            self.pids[name] = started.pid
            yield
            assert started.stderr is not None

    def controls(self) -> RelayControls:
        def control(name: RelayName) -> RelayControl:
            async def where() -> Endpoint:
                return Endpoint.at(self.socket(name))

            return RelayControl(where, CONTROL_KEY, ttl_s=60.0, daemon="d")

        return RelayControls(BOTH, control)

    async def call(self, name: RelayName, token: Token, run: RunId) -> httpx.Response:
        """A child's call through that relay."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket(name)))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay", timeout=20) as child:
            return await child.get(f"/api/flow_runs/{run}", headers={"Authorization": f"Bearer {token}"})

    async def health(self, name: RelayName) -> dict[str, Any] | None:
        if not self.socket(name).exists():
            return None
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket(name)))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as anybody:
            try:
                said: dict[str, Any] = (await anybody.get("/flowgroup/health")).json()
            except httpx.TransportError:
                return None
            return said

    async def knows(self, name: RelayName, attempts: int) -> None:
        """Waits until that relay has been told of so many attempts."""
        async with asyncio.timeout(30):
            while True:
                said = await self.health(name)
                if said and said["known"] and said["open"] == attempts:
                    return
                await asyncio.sleep(0.02)


def claimed(api: FakeAPI) -> ClaimedRun:
    run = RunId(an_id())
    api.flow_runs[run] = None
    return ClaimedRun(DueRun(run, "r", FlowId("f"), None, datetime.now(UTC), {}), AttemptId(an_id()))


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts_room, "_EXTEND_EVERY_S", 0.2)


@pytest.mark.timed
async def test_a_killed_relay_comes_back_to_its_own_children_and_the_other_never_noticed(tmp_path: Path) -> None:
    async with fake_api() as api:
        relays = Relays(tmp_path / "relays", {"api_url": api.url})
        with ExitStack() as processes:
            first = ExitStack()
            processes.enter_context(first)
            for name, stack in zip(BOTH, (first, processes), strict=True):
                stack.enter_context(relays.one(name))
            async with aclosing(relays.controls()) as controls:
                attempts = Attempts(controls, tmp_path / "attempts.json", daemon="d", key=CONTROL_KEY)
                async with extending(attempts):
                    for name in BOTH:
                        await relays.knows(name, 0)
                    runs = {name: claimed(api) for name in BOTH}
                    tokens = {
                        name: (await attempts.open(run, ClusterName("c"), None, name)).token
                        for name, run in runs.items()
                    }

                    async def status(at: RelayName, of: RelayName) -> int:
                        return (await relays.call(at, tokens[of], runs[of].id)).status_code

                    assert [[await status(at, of) for of in BOTH] for at in BOTH] == [[200, 401], [401, 200]]

                    os.kill(relays.pids[FIRST_RELAY], signal.SIGKILL)
                    first.close()
                    with pytest.raises(Transient, match=r"the relay .*first/relay\.sock does not answer"):
                        await attempts.open(claimed(api), ClusterName("c"), None, FIRST_RELAY)
                    began = time.monotonic()
                    for number in range(20):
                        run = claimed(api)
                        opened = await attempts.open(run, ClusterName("c"), None, SECOND)
                        assert (await relays.call(SECOND, opened.token, run.id)).status_code == 200, number
                    assert time.monotonic() - began < 10.0
                    assert await status(SECOND, SECOND) == 200
                    await attempts.close(runs[SECOND].attempt)
                    assert await status(SECOND, SECOND) == 401

                    first.enter_context(relays.one(FIRST_RELAY))
                    await relays.knows(FIRST_RELAY, 2)  # the one that could not be opened is open in the daemon's mind
                    assert await status(FIRST_RELAY, FIRST_RELAY) == 200
                    assert await status(SECOND, FIRST_RELAY) == 401


async def test_children_of_a_relay_that_was_started_again_wait_until_the_daemon_has_told_it(tmp_path: Path) -> None:
    async with fake_api() as api:
        relays = Relays(tmp_path / "relays", {"api_url": api.url})
        run = claimed(api)
        async with aclosing(relays.controls()) as controls:
            attempts = Attempts(controls, tmp_path / "attempts.json", daemon="d", key=CONTROL_KEY)
            with relays.one(SECOND):
                await _until_there(relays, SECOND)
                token = (await attempts.open(run, ClusterName("c"), None, SECOND)).token
                assert (await relays.call(SECOND, token, run.id)).status_code == 200
                os.kill(relays.pids[SECOND], signal.SIGTERM)
            with relays.one(SECOND):
                await _until_there(relays, SECOND)
                assert waits(await relays.call(SECOND, token, run.id))  # nobody is refused
                successor = Attempts(
                    controls, tmp_path / "attempts.json", daemon="d", key=CONTROL_KEY
                )  # the daemon was away too
                async with extending(successor):
                    await relays.knows(SECOND, 1)
                    assert (await relays.call(SECOND, token, run.id)).status_code == 200


async def _until_there(relays: Relays, name: RelayName) -> None:
    async with asyncio.timeout(30):
        while await relays.health(name) is None:
            await asyncio.sleep(0.02)


async def test_a_relay_that_is_told_to_stop_answers_the_calls_that_have_begun(tmp_path: Path) -> None:
    async with fake_api() as api:
        relays = Relays(tmp_path / "relays", {"api_url": api.url})
        run = claimed(api)
        async with aclosing(relays.controls()) as controls:
            attempts = Attempts(controls, tmp_path / "attempts.json", daemon="d", key=CONTROL_KEY)
            with relays.one(FIRST_RELAY):
                await _until_there(relays, FIRST_RELAY)
                token = (await attempts.open(run, ClusterName("c"), None)).token
                api.failure = Failure(status=200, body=b'{"slow": true}', delay_s=6.5)  # it is held for 8 s at most
                calling = asyncio.create_task(relays.call(FIRST_RELAY, token, run.id))
                async with asyncio.timeout(10):
                    while not api.seen:
                        await asyncio.sleep(0.01)
                os.kill(relays.pids[FIRST_RELAY], signal.SIGTERM)
                assert (await calling).json() == {"slow": True}
