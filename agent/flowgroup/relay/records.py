"""
Logs and events of all runs of a driver at once: `POST /flowgroup/records`.

Each record is judged as if its child had sent it alone. What may pass goes on to the API together with what other drivers
sent meanwhile; the answer comes when the API has it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flowgroup import log, metrics
from flowgroup.edge import forward
from flowgroup.errors import Transient
from flowgroup.relay import door, named
from flowgroup.relay.delivery import Delivery
from flowgroup.relay.owners import Owners
from flowgroup.relay.pending import Pending
from flowgroup.relay.tokens import Attempts, Named, OpenAttempt

_MOST_BYTES = 5 * 1024 * 1024
_Names = Callable[[Any], Iterator[Named]]


class _Said(BaseModel):
    token: str = Field(repr=False)
    logs: list[Any] = []
    events: list[Any] = []


class _Records(BaseModel):
    attempts: list[_Said]


class Records:
    """`logs` and `events` deliver to the API; a driver is held for `hold_s` seconds at most."""

    def __init__(self, attempts: Attempts, owners: Owners, logs: Delivery, events: Delivery, *, hold_s: float) -> None:
        self._attempts = attempts
        self._owners = owners
        self._logs = logs
        self._events = events
        self._hold_s = hold_s
        self._pending: Pending[int] = Pending(lambda _: True)

    async def take(self, request: Request) -> Response:
        """
        `{"attempts": [{"token", "logs", "events"}…]}`. 200 once the API has what may pass; 503: send all of it again,
        as it is.
        """
        if not self._attempts.known:
            return forward.away(door.NOT_KNOWN_YET)
        try:
            body = await forward.read_body(request, limit_bytes=_MOST_BYTES)
            records = _Records.model_validate(json.loads(body))
            told = hashlib.sha256(body).digest()
            refused = await self._pending.answer(told, lambda: self._deliver(records), wait_s=self._hold_s)
        except forward.BodyRefused as exc:
            return exc.answer
        except (ValidationError, ValueError, RecursionError):
            return JSONResponse({"detail": "the body is not of the form that the driver sends"}, 422)
        except Transient as exc:
            metrics.RELAY_REQUESTS.labels("away").inc()
            return forward.away(f"Prefect's API: {exc}", retry_after_s=exc.retry_after_s)
        metrics.RELAY_REQUESTS.labels("passed").inc()
        return JSONResponse({"refused": refused})

    async def _deliver(self, records: _Records) -> int:
        """How many were refused. Raises Transient."""
        logs: list[bytes] = []
        events: list[bytes] = []
        count = 0
        for said in records.attempts:
            count += len(said.logs) + len(said.events)
            attempt = self._attempts.find(said.token)
            if attempt is None and self._attempts.may_be_open(said.token):
                raise Transient(door.NOT_KNOWN_YET)
            if attempt is not None:
                logs += [_raw(one) for one in said.logs if await self._may_pass(attempt, one, named.log_names)]
                events += [_raw(one) for one in said.events if await self._may_pass(attempt, one, named.event_names)]
        refused = count - len(logs) - len(events)
        await self._logs.deliver(logs)
        await self._events.deliver(events)
        _count(len(logs), len(events), refused)
        return refused

    async def _may_pass(self, attempt: OpenAttempt, record: Any, names: _Names) -> bool:
        reason = await self._owners.why_not(attempt, names(record))
        if reason is not None:
            log.get().warning("record_refused", run=attempt.run_id, reason=reason)
        return reason is None


def _raw(record: Any) -> bytes:
    """Written anew: of a name given twice we judged the one that the API gets."""
    return json.dumps(record).encode()


def _count(logs: int, events: int, refused: int) -> None:
    for kind, number in (("logs", logs), ("events", events), ("refused", refused)):
        metrics.RELAY_RECORDS.labels(kind).inc(number)
