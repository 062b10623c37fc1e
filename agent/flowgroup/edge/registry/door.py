"""
Getting into a registry: nobody says who he is before he is asked.

A registry asks with 401 and a challenge: a password (`Basic`), or a token (`Bearer`) that another server gives, often
to anybody.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx

from flowgroup.edge.registry import wire
from flowgroup.edge.registry.login import Login
from flowgroup.edge.registry.wire import Answer, Wire
from flowgroup.errors import Permanent
from flowgroup.model.image import ImageName

Logins = Callable[[str], Login | None]
_PAIR = re.compile(r'(\w+)="([^"]*)"')


@dataclass(slots=True)
class Door:
    """The way in for one image. What opened it once is shown again."""

    wire: Wire
    image: ImageName
    logins: Logins
    _shown: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """The registry's answer, with an answer to its challenge if it has one. Raises Transient and Permanent."""
        answer = self.wire.call(method, url, {**headers, **self._shown})
        # A challenge of somebody else, whom the registry points to, gets nothing that is kept for the registry.
        if answer.status != httpx.codes.UNAUTHORIZED or self._shown or answer.host != wire.host_of(url):
            return answer
        shown = self._answered(answer.headers.get_list("WWW-Authenticate"))
        if shown is None:
            return answer
        self._shown = {"Authorization": shown}
        return self.wire.call(method, url, {**headers, **self._shown})

    def _answered(self, challenges: list[str]) -> str | None:
        assert self.image.host is not None
        known = {kind.lower(): rest for kind, _, rest in (one.partition(" ") for one in challenges)}
        login = self.logins(self.image.host)
        if "bearer" in known:
            return f"Bearer {self._token(dict(_PAIR.findall(known['bearer'])), login)}"
        return login.basic() if "basic" in known and login is not None and login.user is not None else None

    def _token(self, said: Mapping[str, str], login: Login | None) -> str:
        realm = said.get("realm", "")
        wanted = {"scope": said.get("scope") or f"repository:{self.image.repository}:pull"}
        wanted |= {"service": said["service"]} if "service" in said else {}
        if login is not None and login.user is None:
            form = {"grant_type": "refresh_token", "refresh_token": login.secret, "client_id": "flowgroup", **wanted}
            answer = self.wire.call("POST", realm, data=form)
        else:
            headers = {"Authorization": login.basic()} if login is not None else {}
            answer = self.wire.call("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(wanted)}", headers)
        found = answer.json()
        token = found.get("token") or found.get("access_token")
        if answer.status != httpx.codes.OK or not isinstance(token, str) or not token.isascii():
            raise Permanent(f"{answer.host} gives no token for it ({answer.status}): is `docker login` needed?")
        return token
