"""
Logs and events of all runs of a driver at once: `POST /flowgroup/records`.

Each record is judged as if its child had sent it alone. The answer comes when what may pass is on disk.
"""

import json
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flowgroup import metrics
from flowgroup.edge import forward
from flowgroup.errors import Transient
from flowgroup.relay import door
from flowgroup.relay.intake import Intake
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.tokens import Attempts

_MOST_BYTES = 5 * 1024 * 1024


class _Said(BaseModel):
    token: str = Field(repr=False)
    logs: list[Any] = []
    events: list[Any] = []


class _Records(BaseModel):
    attempts: list[_Said]
    desk: str | None = Field(default=None, min_length=16, max_length=64)
    number: int = Field(default=0, ge=0, lt=1 << 62)


class Records:
    def __init__(self, attempts: Attempts, intake: Intake) -> None:
        self._attempts = attempts
        self._intake = intake

    async def take(self, request: Request) -> Response:
        """
        `{"desk", "number", "attempts": [{"token", "logs", "events"}…]}`. 200 once what may pass is on disk; 503: send all of
        it again, as it is. A batch that a desk sends again, under its number, is not stored twice; numbers grow, for logs and
        events each. Both may be left out.
        """
        if not self._attempts.known:
            return forward.away(door.NOT_KNOWN_YET)
        try:
            body = await forward.read_body(request, limit_bytes=_MOST_BYTES)
            refused = await self._store(_Records.model_validate(json.loads(body)))
        except forward.BodyRefused as exc:
            return exc.answer
        except (ValidationError, ValueError, RecursionError):
            return JSONResponse({"detail": "the body is not of the form that the driver sends"}, 422)
        except Transient as exc:
            metrics.RELAY_REQUESTS.labels("away").inc()
            return forward.away(str(exc), retry_after_s=exc.retry_after_s)
        metrics.RELAY_REQUESTS.labels("passed").inc()
        return JSONResponse({"refused": refused})

    async def _store(self, records: _Records) -> int:
        """How many were refused. Raises Transient."""
        logs: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        count = 0
        for said in records.attempts:
            count += len(said.logs) + len(said.events)
            attempt = self._attempts.find(said.token)
            if attempt is None and self._attempts.may_be_open(said.token):
                raise Transient(door.NOT_KNOWN_YET)
            if attempt is not None:
                logs += await self._intake.passing(attempt, Kind.LOGS, said.logs)
                events += await self._intake.passing(attempt, Kind.EVENTS, said.events)
        await self._intake.spool.store(logs=logs, events=events, desk=records.desk, number=records.number)
        return count - len(logs) - len(events)
