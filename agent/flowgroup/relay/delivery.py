"""
One kind of records on its way to the API: what comes while a call is under way goes along with the next one.

A lone record is not held back, and under load the calls become few and large.
"""

import asyncio
from dataclasses import dataclass, field

import httpx

from flowgroup import log
from flowgroup.edge import forward
from flowgroup.edge.wire import USER_AGENT
from flowgroup.errors import Transient
from flowgroup.relay.outage import Verdict, judge
from flowgroup.relay.pending import CARRIED_OUT_WITHIN_S
from flowgroup.relay.upstream import Upstream, retry_after_s

_MOST_BYTES = 2 * 1024 * 1024
_MOST_RECORDS = 500  # a Prefect server over SQLite takes 0.25 s for so many, and 1.9 s for 2000
_HEADERS = [(b"content-type", b"application/json"), (b"user-agent", USER_AGENT.encode())]


@dataclass
class _Waiting:
    records: list[bytes]
    done: "asyncio.Future[None]"


@dataclass
class Delivery:
    """
    Records for `path` of the API (`/logs/` or `/events`), each as JSON. An answer is waited for as long as the API may still
    take them: sent again before, they would be there twice. `hold_s` is for reaching it.
    """

    upstream: Upstream
    path: str
    hold_s: float
    _waiting: list[_Waiting] = field(default_factory=list)
    _sending: "asyncio.Task[None] | None" = None

    async def deliver(self, records: list[bytes]) -> None:
        """
        Return when the API has them; those that it refuses for ever are logged and left out.

        Raises Transient when it does not answer: then some of them may have arrived.
        """
        if not records:
            return
        waiting = _Waiting(records, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name=f"deliver {self.path}")
        await waiting.done

    async def _send(self) -> None:
        try:
            while self._waiting:
                taken = self._take()
                records = [record for one in taken for record in one.records]
                try:
                    for first in range(0, len(records), _MOST_RECORDS):
                        await self._post(records[first : first + _MOST_RECORDS])
                except Transient as exc:
                    for one in taken:
                        _settle(one.done, exc)
                else:
                    for one in taken:
                        _settle(one.done, None)
        finally:
            self._sending = None

    def _take(self) -> list[_Waiting]:
        """As many as fit into one call; at least one."""
        taken: list[_Waiting] = []
        size = count = 0
        while self._waiting:
            records = self._waiting[0].records
            size, count = size + sum(map(len, records)), count + len(records)
            if taken and (size > _MOST_BYTES or count > _MOST_RECORDS):
                break
            taken.append(self._waiting.pop(0))
        return taken

    async def _post(self, records: list[bytes]) -> None:
        """In halves when the API refuses them together: one bad record costs itself alone."""
        status, said, asked_s = await self._call(b"[" + b",".join(records) + b"]")
        if judge(status, said) is not Verdict.PASS:
            raise Transient(f"it answered {status}", retry_after_s=asked_s)
        if status < httpx.codes.BAD_REQUEST:
            return
        if len(records) == 1:
            reason = (said or b"")[:300].decode("utf-8", "replace")
            log.get().error("record_refused_by_api", path=self.path, status=status, reason=reason)
            return
        middle = len(records) // 2
        await self._post(records[:middle])
        await self._post(records[middle:])

    async def _call(self, body: bytes) -> tuple[int, bytes | None, float | None]:
        request = self.upstream.request("POST", self.path, query=b"", headers=_HEADERS, body=body, hold_s=self.hold_s)
        patient = forward.awaiting(request, CARRIED_OUT_WITHIN_S)
        response, small = await forward.exchange(self.upstream.client, patient, hold_s=CARRIED_OUT_WITHIN_S)
        await response.aclose()
        return response.status_code, small, retry_after_s(response.headers)


def _settle(done: "asyncio.Future[None]", trouble: Transient | None) -> None:
    if done.done():  # whoever waited for it has gone
        return
    if trouble is None:
        done.set_result(None)
    else:
        done.set_exception(trouble)
