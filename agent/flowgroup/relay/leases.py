"""
Slots of concurrency limits through outages: a lease that ended meanwhile never ends a run.

Prefect's engine ends a run whose lease it cannot renew. So while the API is away the relay answers renewals itself, and
renews when the API is back. A lease that is over by then is taken again, and its old name stands for the new one; where the
slot is another's by now the run goes on without, which is said in its log, and tried again at its next renewal.

A deployment's slot is given back by the server when the run ends, with or without its lease. It is taken again without one:
with a new lease it would be given back twice, and blocked for ever if the relay forgot that it had taken it. So it is tried
once in a run's life unless the API refuses, and noted in the run's labels before.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.responses import Response

from flowgroup import log, retry
from flowgroup.edge import forward
from flowgroup.edge.wire import USER_AGENT
from flowgroup.errors import Transient
from flowgroup.model.lines import WARNING, line
from flowgroup.relay.outage import Verdict, judge
from flowgroup.relay.spool.spooling import Spool
from flowgroup.relay.tokens import Attempts, OpenAttempt
from flowgroup.relay.upstream import Upstream, answer_headers, object_in, retry_after_s

RENEW = "/v2/concurrency_limits/leases/{id}/renew"
TAKE = "/v2/concurrency_limits/increment-with-lease"
GIVE = "/v2/concurrency_limits/decrement-with-lease"
_TAKE_WITHOUT = "/v2/concurrency_limits/increment"
_LABEL = "flowgroup.slot-taken-again-for"
_MOST_KNOWN = 10_000
_FIRST_PAUSE_S = 1.0
_GONE = (httpx.codes.GONE, httpx.codes.NOT_FOUND)
_HEADERS = [(b"content-type", b"application/json"), (b"user-agent", USER_AGENT.encode())]
_LOST = (
    "The lease of a concurrency slot ended while Prefect's API was away, and the slot is another's now. The run goes on "
    "without it."
)


@dataclass(slots=True)
class _Lease:
    """`taken` is the call that took it, `now` the lease that stands for it."""

    taken: bytes
    now: str


class Leases:
    """The leases of the runs behind this relay. `hold_s` is the longest that a renewal is held."""

    def __init__(self, attempts: Attempts, upstream: Upstream, spool: Spool, *, hold_s: float) -> None:
        self._attempts = attempts
        self._upstream = upstream
        self._spool = spool
        self._hold_s = hold_s
        self._known: OrderedDict[str, _Lease] = OrderedDict()
        self._without: set[str] = set()
        self._told: set[str] = set()
        self._owed: dict[str, asyncio.Task[None]] = {}

    def taken(self, body: bytes, answer: bytes) -> None:
        """A child has taken slots with this call. What cannot be read is not remembered."""
        try:
            lease = str(json.loads(answer)["lease_id"])
        except (ValueError, KeyError, TypeError):
            return
        self._known[lease] = _Lease(body, lease)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def given(self, body: bytes) -> bytes:
        """A child's call that gives slots back, with the lease that stands for its own now."""
        try:
            told = json.loads(body)
            known = self._known.get(str(told["lease_id"]))
        except (ValueError, KeyError, TypeError):
            return body
        return body if known is None else json.dumps({**told, "lease_id": known.now}).encode()

    async def renew(self, attempt: OpenAttempt, path: str, body: bytes) -> Response:
        """Renewed, or owed: 204 either way. Only what the API says to a call that is wrong in itself is passed on."""
        lease = path.split("/")[-2]
        if lease in self._owed or lease in self._without:
            return Response(status_code=204)
        try:
            response, small = await self._renewed(lease, body)
        except Transient as exc:
            log.get().info("lease_renewal_owed", run=attempt.run_id, lease=lease, reason=str(exc))
        else:
            if response.status_code not in _GONE:
                return forward.answer(response, small, answer_headers(response))
        settling = asyncio.create_task(self._settle(attempt, lease, body), name=f"lease {lease}")
        self._owed[lease] = settling
        settling.add_done_callback(lambda _: self._owed.pop(lease, None))
        return Response(status_code=204)

    async def _settle(self, attempt: OpenAttempt, lease: str, body: bytes) -> None:
        """Renew it or take it again, as soon as the API answers."""
        tries = 0
        while self._attempts.is_open(attempt):
            try:
                response, _ = await self._renewed(lease, body)
                if response.status_code in _GONE:
                    await self._take_again(attempt, lease)
            except Transient as exc:
                tries += 1
                await asyncio.sleep(retry.pause_s(tries, exc.retry_after_s, base_s=_FIRST_PAUSE_S))
            else:
                return

    async def _renewed(self, lease: str, body: bytes) -> tuple[httpx.Response, bytes]:
        known = self._known.get(lease)
        return await self._call("POST", RENEW.format(id=known.now if known else lease), body)

    async def _take_again(self, attempt: OpenAttempt, lease: str) -> None:
        known = self._known.get(lease)
        if known is None:
            is_taken = await self._deployments_slot(attempt, lease)
        else:
            response, answer = await self._call("POST", TAKE, known.taken)
            is_taken = response.is_success
            if is_taken:
                known.now = str(object_in(answer).get("lease_id"))
        if is_taken:
            log.get().info("slot_taken_again", run=attempt.run_id, lease=lease)
            return
        log.get().warning("slot_lost", run=attempt.run_id, lease=lease, then="the run goes on without it")
        if lease not in self._told:
            said = line(attempt.run_id, "flowgroup", WARNING, _LOST, datetime.now(UTC))
            await self._spool.store(logs=[said])
            self._told.add(lease)

    async def _deployments_slot(self, attempt: OpenAttempt, lease: str) -> bool:
        """Take the slot of the run's deployment, if that is what the lease was for. Whether it is ours again."""
        run = await self._read(f"/flow_runs/{attempt.run_id}")
        details = (run.get("state") or {}).get("state_details") or {}
        if details.get("deployment_concurrency_lease_id") != lease:
            return False
        # Taken already, and the answer was lost; or by this relay before it was started again.
        if lease in self._without or (run.get("labels") or {}).get(_LABEL) == lease:
            self._without.add(lease)
            return True
        limit = (await self._read(f"/deployments/{run.get('deployment_id')}")).get("global_concurrency_limit") or {}
        if not limit.get("name"):
            return False
        await self._label(attempt, lease)
        self._without.add(lease)  # also if the answer is lost: taken twice it would never be given back
        asked = {"names": [limit["name"]], "slots": 1, "mode": "concurrency"}
        response, _ = await self._call("POST", _TAKE_WITHOUT, json.dumps(asked).encode())
        if not response.is_success:
            self._without.discard(lease)
            await self._label(attempt, "")
        return response.is_success

    async def _label(self, attempt: OpenAttempt, value: str) -> None:
        await self._call("PATCH", f"/flow_runs/{attempt.run_id}/labels", json.dumps({_LABEL: value}).encode())

    async def _read(self, path: str) -> dict[str, Any]:
        response, answer = await self._call("GET", path, b"")
        return object_in(answer) if response.is_success else {}

    async def _call(self, method: str, path: str, body: bytes) -> tuple[httpx.Response, bytes]:
        """Raises Transient when the API does not answer, or is in trouble."""
        request = self._upstream.request(method, path, query=b"", headers=_HEADERS, body=body, hold_s=self._hold_s)
        response, small = await self._upstream.exchange(request, hold_s=self._hold_s)
        answer = small if small is not None else await forward.read_whole(response)
        if judge(response.status_code, answer) is not Verdict.PASS:
            asked_s = retry_after_s(response.headers)
            raise Transient(f"the API answered {response.status_code}", retry_after_s=asked_s)
        return response, answer
