"""
The few calls to Kubernetes that certificates take, with the rights that the chart gives for them: Secrets by name.

Not the backend's client: this runs in Jobs, for a second, and reads the one thing that the daemon may never read.
"""

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flowgroup.edge.certs.keeping import Held
from flowgroup.errors import Permanent, Refused, Transient

_TIMEOUT_S = 10.0
_MERGE = {"Content-Type": "application/merge-patch+json"}
_CONFLICT, _TOO_MANY = 409, 429


@asynccontextmanager
async def kubernetes(server: str, account: Path) -> AsyncIterator[httpx.AsyncClient]:
    """
    A client of the API at `server` with a pod's service account: `account` is the folder with `token` and `ca.crt`.

    Raises Refused when the folder cannot be read.
    """
    try:
        token = (account / "token").read_text().strip()
        verify = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except OSError as exc:
        raise Refused(f"cannot read the service account in {account} (--account): {exc}") from exc
    async with httpx.AsyncClient(
        base_url=server,
        verify=verify,
        timeout=_TIMEOUT_S,
        trust_env=False,
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


@dataclass(frozen=True, slots=True)
class NamespaceSecrets:
    """The Secrets of one namespace. The chart has made them, without data: whoever fills them need not create any."""

    client: httpx.AsyncClient
    namespace: str

    async def read(self, name: str) -> Held:
        """What the Secret holds. Raises Transient and Permanent."""
        secret = _said(await _call(self.client, "GET", self._path(name)), f"get the Secret {self.namespace}/{name}")
        data = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
        return Held(data, secret["metadata"]["resourceVersion"])

    async def write(self, name: str, held: Held, data: Mapping[str, bytes]) -> None:
        """Change these keys of it. Raises Transient when it is not as `held` any more, and Permanent."""
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        body = {"metadata": {"resourceVersion": held.version}, "data": encoded}
        _said(await _call(self.client, "PATCH", self._path(name), body), f"patch the Secret {self.namespace}/{name}")

    def _path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/{name}"


async def publish(client: httpx.AsyncClient, namespace: str, name: str, ca: str) -> None:
    """Write the CA (PEM) into the ConfigMap that the chart has made. Raises Transient and Permanent."""
    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    _said(await _call(client, "PATCH", path, {"data": {"ca.crt": ca}}), f"patch the ConfigMap {namespace}/{name}")


async def _call(
    client: httpx.AsyncClient, verb: str, path: str, body: Mapping[str, Any] | None = None
) -> httpx.Response:
    try:
        content = json.dumps(body) if body is not None else None
        kind = _MERGE if verb == "PATCH" else {"Content-Type": "application/json"}
        return await client.request(verb, path, content=content, headers=kind if content else None)
    except httpx.TransportError as exc:
        raise Transient(f"Kubernetes' API at {client.base_url} does not answer: {exc or type(exc).__name__}") from exc


def _said(answer: httpx.Response, what: str) -> dict[str, Any]:
    """The object that the API answered with. Raises Transient when the same may work later, else Permanent."""
    if answer.is_success:
        said: dict[str, Any] = answer.json()
        return said
    told = f"cannot {what}: {answer.status_code} {_message(answer)}"
    if answer.status_code in {_CONFLICT, _TOO_MANY} or answer.is_server_error:
        raise Transient(told)
    raise Permanent(told)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
