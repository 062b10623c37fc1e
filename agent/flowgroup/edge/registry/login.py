"""Who to be at a registry: what `docker login` has left in config.json, and with the programs that keep secrets."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgroup.errors import Permanent

_HELPER_TIMEOUT_S = 4.0
_TOKEN_USER = "<token>"  # noqa: S105  # what a helper says in place of a user's name where the secret is a token


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password or, where `user` is None, an identity token, which is good for other tokens only."""

    user: str | None
    secret: str = field(repr=False)

    def basic(self) -> str:
        """The header's value for a user with a password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def login(host: str, folder: Path) -> Login | None:
    """What docker's configuration in `folder` has for a registry; None if nothing. Raises Permanent."""
    config = _config(folder.expanduser() / "config.json")
    helper = _object(config, "credHelpers").get(host) or config.get("credsStore")
    kept = _from_helper(helper, host) if isinstance(helper, str) else None
    return kept or _from_file(_object(config, "auths"), host)


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise Permanent(f"docker's logins cannot be read ({file}: {exc})") from exc
    return found if isinstance(found, dict) else {}


def _object(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _from_file(auths: Mapping[str, Any], host: str) -> Login | None:
    for key in auths:
        if _host_of(key) == host:
            entry = _object(auths, key)
            if token := entry.get("identitytoken"):
                return Login(None, str(token))
            return _decoded(str(entry.get("auth") or ""), host)
    return None


def _host_of(key: str) -> str:
    """Older dockers wrote an address: `https://registry.example/v1/`."""
    return re.sub(r"^https?://", "", key).partition("/")[0]


def _decoded(auth: str, host: str) -> Login | None:
    try:
        user, separator, secret = base64.b64decode(auth, validate=True).decode().partition(":")
    except ValueError as exc:
        raise Permanent(f"docker's login for {host} cannot be read: log in again") from exc
    return Login(user, secret) if separator else None


def _from_helper(name: str, host: str) -> Login | None:
    """What a helper has. None where it is not on this machine: a config.json is often taken along into containers."""
    program = shutil.which(f"docker-credential-{name}") if re.fullmatch(r"[\w.-]+", name) else None
    if program is None:
        return None
    try:
        asked = subprocess.run(  # noqa: S603
            [program, "get"], input=host, capture_output=True, text=True, check=False, timeout=_HELPER_TIMEOUT_S
        )
        found = json.loads(asked.stdout) if asked.returncode == 0 else {}
        user, secret = (str(found[key]) for key in ("Username", "Secret")) if found else ("", "")
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as exc:
        raise Permanent(f"docker-credential-{name} does not say the login for {host} ({type(exc).__name__})") from exc
    return Login(None if user == _TOKEN_USER else user, secret) if secret else None
