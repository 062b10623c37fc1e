"""One call with records to Prefect's API, and what its answer, or the lack of one, means for them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import httpx

from flowgroup.edge import forward, pump
from flowgroup.edge.wire import USER_AGENT
from flowgroup.errors import Transient
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.stream import Closed, Stream
from flowgroup.relay.upstream import Upstream, retry_after_s

PATHS = {Kind.LOGS: "/logs/", Kind.EVENTS: "/events"}
CARRIED_OUT_WITHIN_S = 65.0
"""A server over SQLite waits for its lock for a minute: what has not appeared by then will not."""
_ANSWER_S = 20.0
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"accept", b"application/json"),
    (b"user-agent", USER_AGENT.encode()),
]
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
# A server over SQLite says 503 whenever its database is locked; 502 and 504 are a proxy's, behind which it may go on.
_SERVER_SAYS = (500, 503)
# A websocket's close codes: of what was sent (a kind or form that is not taken, too large), and what may be of it.
_OF_THE_FRAME = frozenset((1003, 1007, 1009))
_OF_THE_SERVER = frozenset((1008, 1011))
_SERVER_ERROR = 500
# Of the way to the API or of our token, not of the records.
_NOT_NOW = frozenset((401, 403, 404, 405, 407, 425, 429))


class Fate(Enum):
    """
    Of the records of a call. DOUBTFUL: they may be there, now or within CARRIED_OUT_WITHIN_S. NOT_NOW: they are not, and
    may be sent again. NEVER: the API will not take them.
    """

    TAKEN = auto()
    NOT_NOW = auto()
    DOUBTFUL = auto()
    NEVER = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """
    `said` is for people. `status` is 0 without an answer. `under_way`: the call itself where it has no answer yet; it is
    whoever asked who ends it.
    """

    fate: Fate
    said: str
    status: int = 0
    asked_s: float | None = None
    under_way: "asyncio.Task[Answer] | None" = None

    @property
    def late_s(self) -> float:
        """For how long the records may still come to be there: not at all once the server itself says what became of them."""
        return CARRIED_OUT_WITHIN_S if self.fate is Fate.DOUBTFUL and self.status not in _SERVER_SAYS else 0.0


class Unreadable(Exception):
    """The API does not let us read lines."""


@dataclass(frozen=True)
class Upward:
    """
    `hold_s` is for reaching the API; `client`'s connections are used again only where one was used just now. Events go by
    `stream` where there is one.
    """

    upstream: Upstream
    client: forward.Passing
    hold_s: float
    stream: Stream | None = None

    async def post(self, kind: Kind, bodies: Sequence[bytes]) -> Answer:
        """Send these. Never raises for what the outside does. A call that a slow server still answers is left under way."""
        making = _streamed(self.stream, bodies) if self.stream and kind is Kind.EVENTS else self._posted(kind, bodies)
        calling = asyncio.create_task(making, name=f"send {kind}")
        try:
            await asyncio.wait({calling}, timeout=_ANSWER_S)
        except asyncio.CancelledError:
            calling.cancel()
            raise
        if calling.done():
            return calling.result()
        return Answer(Fate.DOUBTFUL, f"no answer within {_ANSWER_S:g} s", under_way=calling)

    async def _posted(self, kind: Kind, bodies: Sequence[bytes]) -> Answer:
        body = b"[" + b",".join(bodies) + b"]"
        try:
            response, small = await self._call(PATHS[kind], body, answer_s=CARRIED_OUT_WITHIN_S)
        except Transient as exc:
            return Answer(Fate.NOT_NOW if isinstance(exc.__cause__, _NEVER_SENT) else Fate.DOUBTFUL, str(exc))
        said = (small or b"")[:300].decode("utf-8", "replace")
        return Answer(fate_of(response.status_code), said, response.status_code, retry_after_s(response.headers))

    async def read_logs(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """`POST /logs/filter`. Raises Transient, and Unreadable when it is not to be had."""
        response, small = await self._call("/logs/filter", json.dumps(asked).encode(), answer_s=self.hold_s)
        if response.status_code in (400, 403, 404, 405, 422, 501):
            raise Unreadable(f"{response.status_code}")
        if response.status_code != httpx.codes.OK:
            asked_s = retry_after_s(response.headers)
            raise Transient(f"it answered {response.status_code} when asked for lines", retry_after_s=asked_s)
        try:
            found = json.loads(small or b"")
        except ValueError as exc:
            raise Transient("its answer is not JSON") from exc
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    async def _call(self, path: str, body: bytes, *, answer_s: float) -> tuple[httpx.Response, bytes]:
        request = self.upstream.request("POST", path, query=b"", headers=_HEADERS, body=body, hold_s=self.hold_s)
        patient = forward.awaiting(request, answer_s)
        try:
            async with asyncio.timeout(answer_s + self.hold_s):
                response = await forward.send(self.client, patient)
                return response, await forward.read_whole(response)
        except TimeoutError as exc:
            raise Transient("no answer in time") from exc


async def _streamed(stream: Stream, bodies: Sequence[bytes]) -> Answer:
    """Once it has left, nobody knows before the pong: it is just sent again."""
    try:
        await stream.send(bodies)
    except pump.Denied as exc:
        return Answer(Fate.NOT_NOW, str(exc), exc.status)
    except Closed as exc:
        fate = Fate.NEVER if exc.code in _OF_THE_FRAME else Fate.DOUBTFUL
        return Answer(fate, str(exc), _SERVER_ERROR if exc.code in _OF_THE_SERVER else 0)
    except Transient as exc:
        return Answer(Fate.DOUBTFUL, str(exc))
    return Answer(Fate.TAKEN, "")


def fate_of(status: int) -> Fate:
    """A redirect is a login page's, and what a server could not do (5xx) a proxy before it may have lost the answer of."""
    if 200 <= status < 300:  # noqa: PLR2004
        return Fate.TAKEN
    if status < 400 or status in _NOT_NOW:  # noqa: PLR2004
        return Fate.NOT_NOW
    return Fate.DOUBTFUL if status >= 500 or status == 408 else Fate.NEVER  # noqa: PLR2004
