"""The daemon's side of the relays' control API: which attempts are open."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from flowgroup.edge import forward, tls
from flowgroup.edge.fence import Fence
from flowgroup.errors import Permanent, Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import FIRST_RELAY, AttemptId, ClusterName, RelayName, RunId

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """
    An attempt that a relay has open. The token itself is with the child only.

    `cluster`, where the attempt was sent, and `relay`, which that cluster speaks through, are for the daemon's own memory.
    """

    attempt: AttemptId
    run_id: RunId
    token_sha256: str
    results: str | None
    cluster: ClusterName
    relay: RelayName = FIRST_RELAY


class RelayControl:
    """
    `relay` says where the relay listens now, and on one machine sees to it that one does. `daemon` tells ours apart from other
    daemons' attempts at the same relay. `fence` is asked before each call.
    """

    def __init__(
        self,
        relay: Callable[[], Awaitable[Endpoint]],
        key: str,
        *,
        ttl_s: float,
        daemon: str = "",
        fence: Fence | None = None,
    ) -> None:
        self._relay = relay
        self._daemon = daemon
        self._key = key
        self._ttl_s = ttl_s
        self._fence = fence or Fence()
        self._client: tuple[Endpoint, httpx.AsyncClient] | None = None
        self._lock = asyncio.Lock()

    async def level(self, attempts: Sequence[OpenAttempt]) -> None:
        """Exactly these of ours are open from now on. Raises Transient when the relay does not answer."""
        body = {"daemon": self._daemon, "attempts": [{"attempt": one.attempt, **self._body(one)} for one in attempts]}
        await self._call("PUT", "/flowgroup/attempts", body)

    async def close(self, attempt: AttemptId) -> None:
        await self._call("DELETE", f"/flowgroup/attempts/{attempt}", None)

    async def aclose(self) -> None:
        if self._client:
            await self._client[1].aclose()
            self._client = None

    def _body(self, attempt: OpenAttempt) -> dict[str, Any]:
        return {
            "run_id": attempt.run_id,
            "token_sha256": attempt.token_sha256,
            "results": attempt.results,
            "ttl_s": self._ttl_s,
        }

    async def _call(self, method: str, path: str, body: Any) -> None:
        relay, client = await self._connected()
        headers = {"Authorization": f"Bearer {self._key}"}
        try:
            answer = await client.request(method, f"{relay.url}{path}", json=body, headers=headers)
        except httpx.RequestError as exc:
            cause = tls.explained(exc, relay) or str(exc) or type(exc).__name__
            raise Transient(f"the relay {relay} does not answer: {cause}") from exc
        if answer.is_server_error:
            raise Transient(f"the relay {relay} answers {method} {path} with {answer.status_code}")
        if answer.is_error and not (method == "DELETE" and answer.status_code == httpx.codes.NOT_FOUND):
            raise Permanent(f"the relay {relay} answers {method} {path} with {answer.status_code}: {answer.text[:200]}")

    async def _connected(self) -> tuple[Endpoint, httpx.AsyncClient]:
        async with self._lock:  # two that find no relay must not start two
            relay = await self._relay()
            if self._client is None or self._client[0] != relay:
                await self.aclose()
                made = httpx.AsyncClient(
                    transport=forward.transport(relay),
                    timeout=_TIMEOUT_S,
                    trust_env=False,
                    event_hooks={"request": [self._fence.before]},
                )
                self._client = (relay, made)
            return self._client


class RelayControls:
    """
    The relays by name: those that are `listed`, which new clusters may use, and any other that a cluster still speaks
    through. Each has a connection of its own, so that none waits for another.
    """

    def __init__(self, listed: Sequence[RelayName], control: Callable[[RelayName], RelayControl]) -> None:
        self.listed = tuple(listed)
        self._control = control
        self._made: dict[RelayName, RelayControl] = {}

    def of(self, name: RelayName) -> RelayControl:
        if name not in self._made:
            self._made[name] = self._control(name)
        return self._made[name]

    async def aclose(self) -> None:
        for control in self._made.values():
            await control.aclose()
