"""
How one daemon reaches what outlives it: the API, the relay, the backend. Cut off at its death, it reaches nothing any more,
whatever its tasks still do; what was on its way then is carried out all the same.
"""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.edge.wire import _Answer
from flowgroup.errors import Permanent, Transient
from flowgroup.model.ids import AttemptId, RelayName
from tests.fakes.backend import FakeBackend
from tests.fakes.prefect_api import FakePrefect, LostAnswerError

_TIMEOUT_S = 60.0
_LATE_S = 20.0


@dataclass
class Reach:
    """`fails` of a kind of call (`relay`, `create`, …): `before` or `after` it is carried out, once each."""

    chance: random.Random
    leg_s: float = 0.02
    is_cut: bool = False
    fails: dict[str, str] = field(default_factory=dict)

    async def leg(self) -> None:
        """One way. Who is cut off waits for ever."""
        await asyncio.sleep(self.chance.random() * self.leg_s)
        if self.is_cut:
            await asyncio.Event().wait()

    async def carried(self, what: str, call: Callable[[], Any]) -> Any:
        """The call there and back."""
        await self.leg()
        how = self.fails.pop(what, None)
        if how == "before":
            raise Transient(f"{what} is told to fail")
        answer = await call()
        await self.leg()
        if how == "after":
            raise Transient(f"the answer of {what} is told to get lost")
        return answer


@dataclass
class MemoryWire:
    """`edge.wire.Wire` without HTTP. A fault `late`: no answer in time, and the call is carried out after that."""

    fake: FakePrefect
    reach: Reach
    url: str = "http://prefect.test/api"

    async def call(self, method: str, path: str, body: Any = None, *, route: str | None = None, **query: str) -> Any:
        await self.reach.leg()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[_Answer] = loop.create_future()
        after_s = self.reach.chance.random() * self.reach.leg_s
        if self._is_late(f"{method} {path}"):
            after_s = _TIMEOUT_S + self.reach.chance.random() * _LATE_S
        loop.call_later(after_s, self._carry_out, answered, method, path, body, query)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await answered
        except (TimeoutError, LostAnswerError) as exc:
            raise Transient(f"{path} does not answer") from exc
        await self.reach.leg()
        if answer.code >= httpx.codes.MULTIPLE_CHOICES:
            raise answer.trouble()
        if answer.body[:1] == b"<":
            raise Permanent("it is not JSON")
        return json.loads(answer.body) if answer.body else None

    def _is_late(self, what: str) -> bool:
        fault = self.fake.fault_of(what)
        if fault is None or fault.how != "late":
            return False
        fault.times -= 1
        return True

    def _carry_out(
        self, answered: "asyncio.Future[_Answer]", method: str, path: str, body: Any, query: dict[str, str]
    ) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        try:
            code, told, headers = self.fake.answer(method, f"/api{path}", asked, {}, raw)
        except LostAnswerError as exc:
            if not answered.done():
                answered.set_exception(exc)
            return
        content = told if isinstance(told, bytes) else b"" if told is None else json.dumps(told).encode()
        if not answered.done():
            answered.set_result(_Answer(f"{method} {path}", path, code, httpx.Headers(headers), content))


@dataclass
class MemoryRelay:
    """What a relay knows. `is_known`: a daemon has told it since it was started; until then it refuses nobody."""

    open: dict[AttemptId, str] = field(default_factory=dict)
    is_known: bool = False
    is_away: bool = False

    def restart(self) -> None:
        self.open, self.is_known = {}, False

    async def takes(self, attempt: AttemptId, token_sha256: str) -> bool:
        """Whether this child may speak, as soon as that is known."""
        while self.is_away or not self.is_known:
            await asyncio.sleep(1.0)
        return self.open.get(attempt) == token_sha256


@dataclass
class RelayHand:
    """The relay as one daemon has it in its hand: `daemon.attempts.Relays` and `Relay`."""

    relay: MemoryRelay
    reach: Reach
    listed: tuple[RelayName, ...] = (RelayName(""),)

    def of(self, name: RelayName) -> "RelayHand":
        return self

    async def aclose(self) -> None:
        """Nothing is kept open."""

    async def level(self, attempts: Sequence[OpenAttempt]) -> None:
        wanted = {one.attempt: one.token_sha256 for one in attempts}
        await self.reach.carried("relay", lambda: self._set(wanted))

    async def close(self, attempt: AttemptId) -> None:
        await self.reach.carried("relay", lambda: self._close(attempt))

    async def _set(self, wanted: dict[AttemptId, str]) -> None:
        self._answers()
        self.relay.open, self.relay.is_known = wanted, True

    async def _close(self, attempt: AttemptId) -> None:
        self._answers()
        self.relay.open.pop(attempt, None)

    def _answers(self) -> None:
        if self.relay.is_away:
            raise Transient("the relay does not answer")


class BackendHand:
    """The backend as one daemon has it in its hand."""

    def __init__(self, backend: FakeBackend, reach: Reach) -> None:
        self._backend = backend
        self._reach = reach

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name not in {
            "find",
            "create",
            "delete",
            "scale",
            "look",
            "why_never",
            "why_waiting",
            "renew",
            "remarks",
            "asks",
        }:
            return found

        async def call(*arguments: Any) -> Any:
            return await self._reach.carried(name, lambda: found(*arguments))

        return call
