"""A child's call on its way to the API: who calls, may it pass, what came back."""

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flowgroup import log, metrics, retry
from flowgroup.edge import forward
from flowgroup.errors import Transient
from flowgroup.relay import door, leases, leaving, named, paths, rules, states
from flowgroup.relay.blocks import NotBlocks, Sight
from flowgroup.relay.cleaning import Sent, cleaned_state
from flowgroup.relay.intake import Intake
from flowgroup.relay.leases import Leases
from flowgroup.relay.outage import Backoff, Patience, Verdict, judge
from flowgroup.relay.owners import Owners
from flowgroup.relay.pending import CARRIED_OUT_WITHIN_S, Pending
from flowgroup.relay.rule import Allow, Found, NeedsOwner, Refuse, Ruling
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.strict import why_foreign
from flowgroup.relay.tokens import Attempts, OpenAttempt
from flowgroup.relay.turns import Turns
from flowgroup.relay.upstream import Upstream, answer_headers, retry_after_s
from flowgroup.settings import RelaySettings

PREFIX = b"/api"
_CREATED = 201
_SERVER_ERROR = 500
_UNAVAILABLE = 503
_UNAUTHORIZED = 401
_CREDENTIALS = (_UNAUTHORIZED, 403)
_LARGE_BYTES = 256 * 1024
_MOST_BLOCKS_BYTES = 16 * 1024 * 1024
_LOCKED_S = 2.0
_LEAST_WAIT_S = 0.5
_QUIET_S = 60.0
_UNWELL_S = 1.0
_NO_ANSWER = 0

# What goes by the spool, and what the API would answer.
_KEPT = {("POST", "/logs/"): (Kind.LOGS, 201), ("POST", "/events"): (Kind.EVENTS, 204)}
_SETS_STATE = frozenset(f"/{runs}/{{id}}/set_state" for runs in ("flow_runs", "task_runs"))

_READ_HERE = _SETS_STATE | {leases.TAKE}

T = TypeVar("T")
_Answer = tuple[httpx.Response, bytes | None]


@dataclass(frozen=True, slots=True)
class Passed:
    """A call that may pass, ready to be sent. `until`: the moment (monotonic) up to which its caller is held."""

    attempt: OpenAttempt
    allow: Allow
    body: bytes
    until: float

    @property
    def left_s(self) -> float:
        return max(_LEAST_WAIT_S, self.until - time.monotonic())


@dataclass(frozen=True, slots=True)
class _Call:
    """As it was read. `found` is its rule, None if there is none; `until` as in `Passed`."""

    parts: tuple[str, ...]
    found: Found | None
    body: bytes
    until: float

    @property
    def is_large(self) -> bool:
        return len(self.body) > _LARGE_BYTES

    async def aside(self, work: Callable[..., T], *args: Any) -> T:
        """In a thread, if the body is large: it would keep all others waiting."""
        return await asyncio.to_thread(work, *args) if self.is_large else work(*args)


class Proxy:
    """`/api/…`: every call is judged, and what may pass is sent on with the token."""

    def __init__(
        self, attempts: Attempts, upstream: Upstream, owners: Owners, intake: Intake, settings: RelaySettings
    ) -> None:
        self._attempts = attempts
        self._upstream = upstream
        self._owners = owners
        self._intake = intake
        self._settings = settings
        self._patience = Patience()
        self._leases = Leases(attempts, upstream, intake.spool, hold_s=settings.hold_s)
        self._pending: Pending[_Answer] = Pending(lambda answer: not answer[0].is_server_error)
        self._quiet_until: dict[int, float] = {}
        self._unwell_until = 0.0
        self._backoff = Backoff(lambda: asyncio.get_running_loop().time())
        self._turns = Turns(settings.calls_per_run)
        self._large = Turns(1)
        covers = owners.granted if settings.profile == "strict" else None
        self._sight = Sight(upstream.credentials.secrets, settings.hidden_blocks, covers)

    async def handle(self, request: Request) -> Response:
        """Starlette's endpoint. Whatever the outside does, it answers."""
        attempt = door.admit(self._attempts, request.headers)
        if isinstance(attempt, Response):
            return _counted("unknown_yet" if attempt.status_code == _UNAVAILABLE else "unauthorized", attempt)
        try:
            async with self._turns.turn(attempt.id, within_s=self._settings.hold_s):
                return await self._answered(request, attempt)
        except forward.BodyRefused as exc:
            return _counted("too_large", exc.answer)
        except Transient as exc:
            self._tell_away(exc)
            again_s = self._backoff.again_s(exc.retry_after_s)
            return _counted("away", forward.away(f"Prefect's API: {exc}", retry_after_s=again_s))

    async def _answered(self, request: Request, attempt: OpenAttempt) -> Response:
        """Large bodies of a run one at a time, until they are judged and stored. Raises BodyRefused and Transient."""
        call = await self._read(request, attempt)
        if isinstance(call, Response):
            return call
        large: AbstractAsyncContextManager[None] = nullcontext()
        if call.is_large:
            large = self._large.turn(attempt.id, within_s=max(_LEAST_WAIT_S, call.until - time.monotonic()))
        async with large:
            passed = await self._judged(request, attempt, call)
            if isinstance(passed, Response):
                return passed
            if kept := _KEPT.get((request.method, passed.allow.path)):
                return await self._stored(passed, *kept)
        if passed.allow.route == leases.RENEW:
            return _counted("passed", await self._leases.renew(passed.attempt, passed.allow.path, passed.body))
        return await self._sent(request, passed)

    async def _read(self, request: Request, attempt: OpenAttempt) -> _Call | Response:
        """What is read of a call before it is judged. Raises BodyRefused."""
        until = time.monotonic() + self._settings.hold_s
        try:
            parts = paths.segments(request.scope["raw_path"].removeprefix(PREFIX))
        except paths.BadPath as exc:
            return _refused(attempt, request, str(exc), status=400)
        if "transfer-encoding" in request.headers and "content-length" in request.headers:
            return _refused(attempt, request, "the body has two lengths", status=400)
        if "content-encoding" in request.headers:
            return _refused(attempt, request, "bodies with a Content-Encoding are not read", status=415)
        found = rules.find(request.method, parts, self._settings.profile)
        body = await forward.read_body(request, limit_bytes=self._settings.max_body_bytes)
        return _Call(parts, found, body, until)

    async def _judged(self, request: Request, attempt: OpenAttempt, call: _Call) -> Passed | Response:
        """What the list says. Raises Transient when the API has to be asked and is away."""
        try:
            parsed = await call.aside(named.parse, call.body) if call.found and call.found.rule.reads_body else None
        except named.Malformed as exc:
            return _refused(attempt, request, str(exc), status=400)
        covers = partial(self._owners.covers, attempt)
        ruling = await call.aside(rules.decide, call.found, call.parts, parsed, covers)
        ruled = await self._ruled(request, attempt, ruling)
        if isinstance(ruled, Response):
            return ruled
        left = await call.aside(_clean, attempt, ruled, call.body, parsed)
        return Passed(attempt, ruled, left, call.until)

    async def _ruled(self, request: Request, attempt: OpenAttempt, ruling: Ruling) -> Allow | Response:
        match ruling:
            case Refuse(reason):
                return _refused(attempt, request, reason)
            case Allow():
                return ruling
            case NeedsOwner():
                foreign = await self._owners.first_foreign(attempt, ruling.named)
                if foreign is None:
                    return ruling.allow
                return _refused(attempt, request, why_foreign(foreign))

    async def _stored(self, passed: Passed, kind: Kind, status: int) -> Response:
        """Records go by the spool. A body that comes again is not stored twice. Raises Transient."""
        is_large = len(passed.body) > _LARGE_BYTES
        said = await asyncio.to_thread(json.loads, passed.body) if is_large else json.loads(passed.body)
        records = await self._intake.passing(passed.attempt, kind, said)
        name = hashlib.sha256(passed.attempt.id.encode() + passed.body).hexdigest()
        told = {"logs": records} if kind is Kind.LOGS else {"events": records}
        await self._intake.spool.store(**told, desk=name, number=1, is_body=True)
        return _counted("passed", Response(status_code=status))

    async def _sent(self, request: Request, passed: Passed) -> Response:
        """What the API made of it, as the child is told. Raises Transient when the child is to wait."""
        if passed.allow.route == leases.GIVE:
            passed = replace(passed, body=self._leases.given(passed.body))
        response, small = await self._exchanged(request, passed)
        if await self._is_outage(passed, request.method, response.status_code, small):
            await response.aclose()
            asked = retry_after_s(response.headers)
            raise Transient(f"it answered {response.status_code}", retry_after_s=asked)
        self._backoff.is_over()
        _remember(passed, response, small)
        if passed.allow.route == leases.TAKE and small and response.is_success:
            self._leases.taken(passed.body, small)
        made = states.as_accepted(passed.body, small) if small and passed.allow.route in _SETS_STATE else None
        if made is not None:
            return _counted("passed", Response(made, _CREATED, media_type="application/json"))
        if passed.allow.blocks and response.is_success:
            return await self._shown(request, passed, response, small)
        return _counted("passed", forward.answer(response, small, answer_headers(response)))

    async def _shown(self, request: Request, passed: Passed, response: httpx.Response, small: bytes | None) -> Response:
        """The blocks that the run may see. What it learns from them is masked in its records from now on."""
        try:
            whole = small if small is not None else await forward.read_whole(response, limit_bytes=_MOST_BLOCKS_BYTES)
            seen = (
                await asyncio.to_thread(self._sight.look, whole)
                if len(whole) > _LARGE_BYTES
                else self._sight.look(whole)
            )
        except (NotBlocks, forward.TooLarge) as exc:
            return _refused(passed.attempt, request, str(exc))
        if isinstance(seen, str):
            return _refused(passed.attempt, request, seen)
        passed.attempt.masks.add(seen.secrets)
        return _counted("passed", Response(seen.body, response.status_code, media_type="application/json"))

    async def _exchanged(self, request: Request, passed: Passed) -> _Answer:
        """What only reads is given up after a while; what changes something is left under way."""
        if passed.allow.reads:
            return await self._answer(self._outgoing(request, passed), hold_s=passed.left_s)
        query = request.scope["query_string"]
        call = (passed.attempt.id, request.method, passed.allow.path, query, hashlib.sha256(passed.body).digest())

        async def carried_out() -> _Answer:
            outgoing = forward.awaiting(self._outgoing(request, passed), CARRIED_OUT_WITHIN_S)
            response, small = await self._answer(outgoing, hold_s=CARRIED_OUT_WITHIN_S)
            return response, small if small is not None else await forward.read_whole(response)

        return await self._pending.answer(call, carried_out, wait_s=passed.left_s)

    def _outgoing(self, request: Request, passed: Passed) -> httpx.Request:
        headers = request.headers.raw
        allow = passed.allow
        if allow.makes or allow.blocks or allow.route in _READ_HERE:  # its answer is read here: not compressed
            headers = [(name, value) for name, value in headers if name != b"accept-encoding"]
        return self._upstream.request(
            request.method,
            passed.allow.path,
            query=request.scope["query_string"],
            headers=headers,
            body=passed.body,
            hold_s=self._settings.hold_s,
        )

    async def _answer(self, outgoing: httpx.Request, *, hold_s: float) -> _Answer:
        """
        The API's answer. A Prefect server over SQLite says 503 whenever its database is locked, without
        having done anything: that is asked again here at once, for a child would wait for seconds.
        """
        until = time.monotonic() + min(_LOCKED_S, hold_s)
        for tries in itertools.count(1):
            response, small = await self._upstream.exchange(outgoing, hold_s=hold_s)
            pause_s = retry.pause_s(tries, None, base_s=0.1)
            locked = response.status_code == _UNAVAILABLE and "retry-after" not in response.headers
            if not locked or time.monotonic() + pause_s > until:
                break
            await response.aclose()
            await asyncio.sleep(pause_s)
        return response, small

    async def _is_outage(self, passed: Passed, method: str, status: int, small: bytes | None) -> bool:
        """Whether the child is to wait, and not to be told."""
        call = (passed.attempt.id, method, passed.allow.path)
        verdict = judge(status, small)
        if verdict is Verdict.PASS:
            self._patience.worked(*call)
            return False
        if status == _UNAUTHORIZED and self._upstream.credentials.refused():
            return True  # the next try shows the new ones
        self._tell(status, passed.allow.route)
        if verdict is Verdict.WAIT:
            return True
        return not await self._answers_at_all(passed.left_s) or not self._patience.is_over(*call)

    def _is_said(self, status: int) -> bool:
        """Whether this was logged within the last minute. If not, it is to be said now."""
        now = time.monotonic()
        if now < self._quiet_until.get(status, now):
            return True
        self._quiet_until[status] = now + _QUIET_S
        return False

    def _tell_away(self, exc: Transient) -> None:
        if not self._is_said(_NO_ANSWER):
            log.get().warning("api_away", reason=str(exc), then="runs wait until it is there again")

    def _tell(self, status: int, route: str) -> None:
        """Log, for the operator: each status once a minute."""
        if self._is_said(status):
            return
        remedy = "check the API key or auth string" if status in _CREDENTIALS else "runs wait until it is well again"
        log.get().error("api_in_trouble", status=status, route=route, remedy=remedy)

    async def _answers_at_all(self, hold_s: float) -> bool:
        """Whether the API is well otherwise. That it is not is known for a second, to all calls."""
        if time.monotonic() < self._unwell_until:
            return False
        is_well = await self._is_ready(hold_s)
        if not is_well:
            self._unwell_until = time.monotonic() + _UNWELL_S
        return is_well

    async def _is_ready(self, hold_s: float) -> bool:
        probe = self._upstream.request("GET", "/ready", query=b"", headers=[], body=b"", hold_s=hold_s)
        try:
            response, _ = await self._upstream.exchange(probe, hold_s=hold_s)
        except Transient:
            return False
        await response.aclose()
        return response.status_code < _SERVER_ERROR


def _clean(attempt: OpenAttempt, allow: Allow, body: bytes, parsed: Any) -> bytes:
    """What leaves with a state in it: without secrets, and counted. Records are cleaned on their way to the disk."""
    if not (isinstance(parsed, dict) and isinstance(parsed.get("state"), dict)):
        return body
    sent = Sent()
    clean = cleaned_state(parsed, attempt.masks, sent)
    left = body if clean == parsed else json.dumps(clean).encode()
    if allow.state:
        sent.records, sent.bytes = 1, len(left)
    leaving.count(attempt, "states", sent)
    return left


def _remember(passed: Passed, response: httpx.Response, small: bytes | None) -> None:
    """
    What the call made belongs to the attempt. Only what was made (201): with another run's idempotency key
    the API answers 200 and that run.
    """
    if passed.allow.makes is None or response.status_code != _CREATED or small is None:
        return
    try:
        made = json.loads(small)["id"]
        passed.attempt.belongings.add(passed.allow.makes, named.uuid_of(made))
    except (ValueError, KeyError, TypeError):
        log.get().warning("made_without_id", route=passed.allow.route)


def _refused(attempt: OpenAttempt, request: Request, reason: str, *, status: int = 403) -> Response:
    path = request.url.path[:200]
    log.get().warning("call_refused", run=attempt.run_id, method=request.method, path=path, reason=reason)
    detail = f"flowgroup's relay refuses {request.method} {path}: {reason}"
    return _counted("refused", JSONResponse({"detail": detail}, status))


def _counted(outcome: str, answer: Response) -> Response:
    metrics.RELAY_REQUESTS.labels(outcome).inc()
    return answer
