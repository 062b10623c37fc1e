"""An image registry as OCI's distribution specification has it, with a server of tokens: for `httpx.MockTransport`."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs

import httpx

HOST, TOKENS = "registry.test", "tokens.test"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class FakeRegistry:
    """
    `wants` is what it challenges with; `open_to_all`: its server of tokens asks nobody for a login.

    `before`, where it gives an answer, answers in the registry's place.
    """

    wants: Literal["", "basic", "bearer"] = ""
    open_to_all: bool = True
    says_digest: bool = True
    manifests: dict[str, bytes] = field(default_factory=dict)
    seen: list[httpx.Request] = field(default_factory=list)
    before: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    user: str = "ann"
    password: str = "secret-of-ann"
    identity: str = "identity-of-ann"

    def push(self, name: str, text: str) -> str:
        """Puts a manifest behind `repository:tag`; its digest."""
        body = json.dumps({"schemaVersion": 2, "config": text}).encode()
        repository, _, tag = name.partition(":")
        self.manifests[f"/v2/{repository}/manifests/{tag}"] = body
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if (answer := self.before(request)) is not None:
            return answer
        return self._token(request) if request.url.host == TOKENS else self._manifest(request)

    def shown(self) -> list[tuple[str, str, str]]:
        """Who asked what with which authorization."""
        return [(one.method, one.url.host, one.headers.get("Authorization", "")) for one in self.seen]

    def _manifest(self, request: httpx.Request) -> httpx.Response:
        if self.wants and request.headers.get("Authorization") != self._key():
            return httpx.Response(401, headers={"WWW-Authenticate": self._challenge()}, json={"errors": []})
        body = self.manifests.get(request.url.path)
        if body is None:
            return _answer(request, 404, json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN"}]}).encode())
        digest = {"Docker-Content-Digest": f"sha256:{hashlib.sha256(body).hexdigest()}"} if self.says_digest else {}
        return _answer(request, 200, body, digest)

    def _key(self) -> str:
        return basic(self.user, self.password) if self.wants == "basic" else "Bearer let-in"

    def _challenge(self) -> str:
        if self.wants == "basic":
            return 'Basic realm="registry"'
        return f'Bearer realm="https://{TOKENS}/token",service="{HOST}",scope="repository:team/etl:pull"'

    def _token(self, request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode()) if request.method == "POST" else {}
        known = form.get("refresh_token") == [self.identity] or request.headers.get("Authorization") == basic(
            self.user, self.password
        )
        if not known and not self.open_to_all:
            return httpx.Response(401, json={"details": "incorrect username or password"})
        return httpx.Response(200, json={"access_token" if form else "token": "let-in"})


def _answer(request: httpx.Request, status: int, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, content=b"" if request.method == "HEAD" else body)
