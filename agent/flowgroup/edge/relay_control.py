"""The daemon's side of the relay's control API: which attempts are open. Over the relay's Unix socket."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flowgroup.errors import Permanent, Transient
from flowgroup.model.ids import AttemptId, ClusterName, RunId

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """
    An attempt that the relay has open. The token itself is with the child only.

    `cluster`, where the attempt was sent, is for the daemon's own memory.
    """

    attempt: AttemptId
    run_id: RunId
    token_sha256: str
    results: str | None
    cluster: ClusterName


class RelayControl:
    """`socket` says where the relay listens now, and sees to it that one does."""

    def __init__(self, socket: Callable[[], Awaitable[Path]], key: str, *, ttl_s: float) -> None:
        self._socket = socket
        self._key = key
        self._ttl_s = ttl_s
        self._client: tuple[Path, httpx.AsyncClient] | None = None
        self._lock = asyncio.Lock()

    async def level(self, attempts: Sequence[OpenAttempt]) -> None:
        """Exactly these are open from now on. Raises Transient when the relay does not answer."""
        body = {"attempts": [{"attempt": one.attempt, **self._body(one)} for one in attempts]}
        await self._call("PUT", "/flowgroup/attempts", body)

    async def open(self, attempt: OpenAttempt) -> None:
        await self._call("PUT", f"/flowgroup/attempts/{attempt.attempt}", self._body(attempt))

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
        client = await self._connected()
        headers = {"Authorization": f"Bearer {self._key}"}
        try:
            answer = await client.request(method, f"http://relay{path}", json=body, headers=headers)
        except httpx.RequestError as exc:
            raise Transient(f"the relay does not answer: {str(exc) or type(exc).__name__}") from exc
        if answer.is_server_error:
            raise Transient(f"the relay answers {method} {path} with {answer.status_code}")
        if answer.is_error and not (method == "DELETE" and answer.status_code == httpx.codes.NOT_FOUND):
            raise Permanent(f"the relay answers {method} {path} with {answer.status_code}: {answer.text[:200]}")

    async def _connected(self) -> httpx.AsyncClient:
        async with self._lock:  # two that find no relay must not start two
            socket = await self._socket()
            if self._client is None or self._client[0] != socket:
                await self.aclose()
                # Nothing is verified over a Unix socket, and the certificates for it would take 7 MB.
                transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
                self._client = (socket, httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S))
            return self._client[1]
