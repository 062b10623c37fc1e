"""
What opens Prefect's API: a key or an auth string, from the environment or from a file that may be replaced at any time.

A file is looked at before each use, so that a rotated key needs no restart. Nothing here prints what it holds.
"""

import base64
from collections.abc import Generator
from pathlib import Path

import httpx
from pydantic import SecretStr

from flowgroup import log
from flowgroup.errors import Refused


class Credentials:
    """As in Prefect's client, the auth string wins over the key; a file wins over the value beside it."""

    def __init__(
        self,
        *,
        key: SecretStr | None = None,
        auth_string: SecretStr | None = None,
        key_file: Path | None = None,
        auth_string_file: Path | None = None,
    ) -> None:
        """Raises Refused, naming the variable, when a file cannot be read, or has what no header can have."""
        self._key = _Held("PREFECT_API_KEY", key, key_file)
        self._word = _Held("PREFECT_API_AUTH_STRING", auth_string, auth_string_file)

    def shown(self) -> str | None:
        """The header Authorization; None if there is nothing to show."""
        if word := self._word.now():
            return "Basic " + base64.b64encode(word.encode()).decode()
        key = self._key.now()
        return f"Bearer {key}" if key else None

    def word(self) -> str | None:
        """What goes into a websocket's first frame."""
        return self._word.now() or self._key.now()

    def secrets(self) -> tuple[str, ...]:
        """Everything that may never be said to anybody else."""
        return tuple(filter(None, (self._word.now(), self._key.now())))

    def refused(self) -> bool:
        """The API does not take them (401): read the files again. Whether there are others now."""
        before = self.secrets()
        for held in (self._word, self._key):
            held.forget_stamp()
        return self.secrets() != before


class Shown(httpx.Auth):
    """Shows them with every call of a client, and once more if they were replaced meanwhile."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        self._show(request)
        answer = yield request
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._credentials.refused():
            self._show(request)
            yield request

    def _show(self, request: httpx.Request) -> None:
        if shown := self._credentials.shown():
            request.headers["Authorization"] = shown


class _Held:
    def __init__(self, name: str, value: SecretStr | None, file: Path | None) -> None:
        self._name = name
        self._value = value
        self._file = file
        self._stamp: object = None
        if file is None:
            _may_be_shown(name, self.now())
        else:
            self._read(file)

    def now(self) -> str:
        if self._file is not None and _stamp(self._file) != self._stamp:
            try:
                self._read(self._file)
            except Refused as exc:  # it is just being replaced, it may be
                log.get().error("credentials_not_taken", reason=str(exc), then="going on with those from before")
        return self._value.get_secret_value() if self._value else ""

    def forget_stamp(self) -> None:
        self._stamp = None

    def _read(self, file: Path) -> None:
        self._stamp = _stamp(file)
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise Refused(f"cannot read {file} ({self._name}_FILE): {reason}") from None
        if not text:
            raise Refused(f"{file} ({self._name}_FILE) is empty")
        _may_be_shown(self._name, text)
        before, self._value = self._value, SecretStr(text)
        if before not in (None, self._value):
            log.get().info("credentials_read_again", file=str(file))


def _may_be_shown(name: str, value: str) -> None:
    if name == "PREFECT_API_KEY" and not (value.isascii() and (value.isprintable() or not value)):
        raise Refused(f"{name} has characters that no key has: was it copied with a line break or a quote?")


def _stamp(file: Path) -> object:
    """Changes with the file, also when it is a link that points elsewhere now (as in Kubernetes)."""
    try:
        found = file.stat()
    except OSError:
        return "not there"
    return found.st_ino, found.st_mtime_ns, found.st_size
