"""
The place of the one daemon that leads, as a Lease of Kubernetes' API.

Nobody's clock is compared with anybody else's: who waits counts, by its own, for how long the record has not changed; who
leads counts from when it began to write. It stops to act a few seconds before others may take the place.
"""

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from flowgroup import log
from flowgroup.edge.fence import Fence
from flowgroup.edge.kubernetes.client import LEASES, Client, Exists, NotThere
from flowgroup.errors import FlowgroupError

Json = dict[str, Any]
LEASE_S = 10
HELD_S = 7.0  # from when a renewal began: three seconds for what is under way, and for clocks that run apart
RENEW_EVERY_S = 2.0
LOOK_EVERY_S = 1.0
_CALL_TIMEOUT_S = 3.0  # a renewal that hangs leaves time for another one
_AGAIN_S = 0.5
_LEAST_S = 0.05  # a rest
_RELEASED_S = 1


class _Taken(Exception):
    """The place is another's."""


class LeaseSeat:
    """`client` is of the Lease's namespace and has no fence: to renew is how one keeps it."""

    has_one_home = False

    def __init__(self, client: Client, name: str, fence: Fence, *, me: str = "") -> None:
        self.fence = fence
        self._client = client
        self._name = name
        self._me = me or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._there: Json = {}
        self._is_there = False
        self._changed_at: float | None = None
        self._is_failing = False
        fence.close()

    # Taken

    async def take(self, looked: Callable[[], None]) -> None:
        waits_for = None
        while True:
            with self._said("lease_not_seen"):
                if await self._taken():
                    log.get().info("leading", lease=self._name, me=self._me)
                    return
                looked()
                if waits_for != (waits_for := self._holder):
                    log.get().info("standing_by", lease=self._name, me=self._me, leader=waits_for)
            await asyncio.sleep(min(LOOK_EVERY_S, max(_LEAST_S, self._over_in_s())))

    async def _taken(self) -> bool:
        """Look once, and take the place if it is free."""
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            await self._look()
            is_free = self._is_there and self._holder in ("", self._me)
            if not is_free and self._over_in_s() > 0.0:
                return False
            try:
                await self._write(self._me)
            except Exists:  # another one was faster
                return False
            return True

    async def _look(self) -> None:
        """One that is not there may just have been deleted: whoever held it still acts, for as long as it may."""
        try:
            self._note(await self._client.get(LEASES, self._name))
        except NotThere:
            self._is_there = False
            self._changed_at = _now() if self._changed_at is None else self._changed_at

    def _note(self, there: Json) -> None:
        if self._changed_at is None or self._there.get("spec") != there.get("spec"):
            self._changed_at = _now()
        self._there, self._is_there = there, True

    @property
    def _spec(self) -> Json:
        spec = self._there.get("spec")
        return spec if isinstance(spec, dict) else {}

    @property
    def _holder(self) -> str:
        return str(self._spec.get("holderIdentity") or "")

    def _over_in_s(self) -> float:
        """When the place is free if its holder does not renew; it said itself for how long it would be silent at most."""
        said = self._spec.get("leaseDurationSeconds")
        good_for_s = said if self._is_there and isinstance(said, int) and said > 0 else LEASE_S
        return (self._changed_at or 0.0) + good_for_s - _now()

    # Kept

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[asyncio.Event]:
        lost = asyncio.Event()
        renewing = asyncio.create_task(self._renewed(lost), name="renew the lease")
        try:
            yield lost
        finally:
            renewing.cancel()
            await asyncio.wait((renewing,))
            self.fence.close()
            await self._give_back()

    async def _renewed(self, lost: asyncio.Event) -> None:
        """Renew until that was not possible for too long, or the place is seen to be another's."""
        with suppress(_Taken):
            while self.fence.is_open:
                rest_s = min(_AGAIN_S if self._is_failing else RENEW_EVERY_S, self.fence.left_s)
                await asyncio.sleep(max(_LEAST_S, rest_s))  # the fence closes in time without us
                with self._said("lease_not_renewed"):
                    async with asyncio.timeout(min(_CALL_TIMEOUT_S, self.fence.left_s)):
                        await self._renew()
        self.fence.close()
        log.get().warning("leadership_lost", lease=self._name, leader=self._holder, then="standing by")
        lost.set()

    async def _renew(self) -> None:
        try:
            await self._write(self._me)
        except (Exists, NotThere):  # our own renewal whose answer was lost, or somebody else's word
            await self._look()
            if self._holder not in ("", self._me):
                raise _Taken from None
            await self._write(self._me)

    async def _write(self, holder: str) -> None:
        """Write the record over what was seen last. Raises Exists when it has changed meanwhile."""
        began, spec = _now(), self._record(holder)
        if not self._is_there:
            metadata = {"name": self._name, "namespace": self._client.namespace}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            self._note(await self._client.create(LEASES, body))
        else:
            self._note(await self._client.replace(LEASES, self._name, {**self._there, "spec": spec}))
        if holder:
            self.fence.open(began + HELD_S)

    def _record(self, holder: str) -> Json:
        now, before = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), self._spec
        is_new = holder not in ("", self._holder)
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_S if holder else _RELEASED_S,
            "acquireTime": now if is_new else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + is_new,
        }

    async def _give_back(self) -> None:
        """So that another one has it at once. Without an answer it is free when it is over."""
        with self._said("lease_not_given_back"):
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await self._look()
                if self._holder == self._me:
                    await self._write("")
                    log.get().info("lease_given_back", lease=self._name)

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """A trouble during the block goes no further. It is said once, until a block goes well."""
        try:
            yield
            self._is_failing = False
        except (FlowgroupError, TimeoutError) as exc:
            said = log.get().debug if self._is_failing else log.get().warning
            said(what, lease=self._name, reason=str(exc) or "Kubernetes' API does not answer in time")
            self._is_failing = True


def _now() -> float:
    return asyncio.get_running_loop().time()
