"""
What the daemon says to the relay (which attempts are open), and what a child may ask of the relay itself.
"""

import json
import time
from typing import Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flowgroup import log, metrics
from flowgroup.edge import forward, store
from flowgroup.errors import FlowgroupError, Transient
from flowgroup.model.ids import AttemptId, RunId
from flowgroup.relay import door
from flowgroup.relay.tokens import Attempts, OpenAttempt, Opening
from flowgroup.settings import RelaySettings

_SIGNED_FOR_S = 3600.0
_MOST_CONTROL_BYTES = 16 * 1024 * 1024
_MOST_KEY_CHARS = 1024


Said = TypeVar("Said", bound=BaseModel)


class _Opened(BaseModel):
    model_config = ConfigDict(extra="ignore")

    run_id: UUID
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    results: str | None = None
    ttl_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class _Named(_Opened):
    attempt: str


class _Level(BaseModel):
    attempts: list[_Named]
    daemon: str = Field(default="", max_length=_MOST_KEY_CHARS)


class _Sign(BaseModel):
    method: Literal["GET", "PUT"]
    key: str = Field(min_length=1, max_length=_MOST_KEY_CHARS)


class Control:
    """`/flowgroup/…`."""

    def __init__(self, attempts: Attempts, settings: RelaySettings, control_key: str) -> None:
        self._attempts = attempts
        self._settings = settings
        self._key = control_key

    async def level(self, request: Request) -> Response:
        """`PUT /flowgroup/attempts`: exactly these of that daemon are open."""
        said = await self._said(request, _Level)
        if isinstance(said, Response):
            return said
        openings = [self._opening(one.attempt, one, said.daemon) for one in said.attempts]
        self._attempts.level(openings, time.monotonic(), said.daemon)
        return JSONResponse({"open": len(self._attempts)})

    async def open(self, request: Request) -> Response:
        """`PUT /flowgroup/attempts/{attempt}`: open or extend this one."""
        said = await self._said(request, _Opened)
        if isinstance(said, Response):
            return said
        self._attempts.open(self._opening(request.path_params["attempt"], said), time.monotonic())
        return Response(status_code=204)

    async def close(self, request: Request) -> Response:
        """`DELETE /flowgroup/attempts/{attempt}`. Closing what is not open is fine."""
        if not door.shows_key(request.headers, self._key):
            return _not_the_daemon()
        self._attempts.close(AttemptId(request.path_params["attempt"]))
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        """`GET /flowgroup/health`: it lives. Never asks the API."""
        return JSONResponse({"status": "ok", "known": self._attempts.known, "open": len(self._attempts)})

    async def metrics(self, request: Request) -> Response:
        """`GET /flowgroup/metrics`, for the daemon's own page."""
        if not door.shows_key(request.headers, self._key):
            return _not_the_daemon()
        return Response(metrics.exposition(metrics.RELAY), media_type=metrics.CONTENT_TYPE)

    async def sign(self, request: Request) -> Response:
        """`POST /flowgroup/sign`: an address below the attempt's own folder for results."""
        attempt = door.admit(self._attempts, request.headers)
        if isinstance(attempt, Response):
            return attempt
        asked = await _parsed(request, _Sign, limit_bytes=16 * 1024)
        return asked if isinstance(asked, Response) else await _signed(attempt, asked)

    def _opening(self, attempt: str, said: _Opened, daemon: str = "") -> Opening:
        return Opening(
            attempt=AttemptId(attempt),
            run_id=RunId(str(said.run_id)),
            token_sha256=said.token_sha256,
            results=said.results,
            ttl_s=said.ttl_s if said.ttl_s is not None else self._settings.attempt_ttl_s,
            daemon=daemon,
        )

    async def _said(self, request: Request, form: type[Said]) -> Said | Response:
        """What the daemon says, or why it is not taken."""
        if not door.shows_key(request.headers, self._key):
            return _not_the_daemon()
        return await _parsed(request, form, limit_bytes=_MOST_CONTROL_BYTES)


async def _signed(attempt: OpenAttempt, asked: _Sign) -> Response:
    if attempt.results is None:
        return JSONResponse({"detail": "this run has no folder for results in an object store"}, 403)
    if not is_below(asked.key):
        return JSONResponse({"detail": "the key is not a plain path below the run's folder"}, 403)
    try:
        url = await store.presign(store.join(attempt.results, asked.key), asked.method, _SIGNED_FOR_S)
    except Transient as exc:
        return forward.away(str(exc), retry_after_s=exc.retry_after_s)
    except FlowgroupError as exc:
        log.get().error("cannot_sign", run=attempt.run_id, reason=str(exc))
        return JSONResponse({"detail": str(exc)}, 422)
    return JSONResponse({"url": url})


def is_below(key: str) -> bool:
    """Whether a key names something below the folder that it is joined to, in one way only."""
    parts = key.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    return plain and not any(char in "\\%?#" or not char.isprintable() for char in key)


async def _parsed(request: Request, form: type[Said], *, limit_bytes: int) -> Said | Response:
    try:
        return form.model_validate(json.loads(await forward.read_body(request, limit_bytes=limit_bytes)))
    except forward.BodyRefused as exc:
        return exc.answer
    except ValidationError as exc:
        where = sorted({".".join(str(part) for part in error["loc"]) for error in exc.errors(include_input=False)})
        return JSONResponse({"detail": f"wrong in: {', '.join(where)}"}, 422)
    except (ValueError, RecursionError):
        return JSONResponse({"detail": "the body is not JSON"}, 422)


def _not_the_daemon() -> Response:
    return JSONResponse({"detail": "this needs the control key"}, 401)
