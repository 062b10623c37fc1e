"""
Where a room of ours is reached, and where one listens: a Unix socket on one machine, TLS between hosts.

An address is written as a path, `tls://host:port` (the daemon) or `https://host:port` (the relay). There is no form
without encryption for other hosts: tokens and code travel on these lines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from urllib.parse import SplitResult, urlsplit

from flowgroup.errors import Refused

Scheme = Literal["unix", "tls", "https"]
_FORMS = "an absolute path of a Unix socket, tls://host:port or https://host:port"


@dataclass(frozen=True, slots=True)
class TlsPort:
    """Where a room listens for other hosts: `cert` (the chain) and `key` are PEM files. Port 0: a free one."""

    host: str
    port: int
    cert: Path
    key: Path


Listen = Path | TlsPort
"""Where a room listens: a Unix socket's path, or a port with TLS."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    An address that is dialled. Either `socket` is set, or `host` and `port` are.

    `ca` is a PEM file of the authorities that may vouch for the host; None: those that the system trusts.
    """

    scheme: Scheme
    socket: Path | None = None
    host: str = ""
    port: int = 0
    ca: Path | None = None

    @classmethod
    def parse(cls, text: str, *, ca: Path | None = None) -> Self:
        """
        Read an address as `str` writes it. `ca` is kept for an address with TLS only.

        Raises Refused, naming what is wrong with it and which forms there are.
        """
        if text.startswith("/"):
            return cls.at(Path(text))
        parts = _split(text)
        if parts.scheme == "tls":
            scheme: Scheme = "tls"
        elif parts.scheme == "https":
            scheme = "https"
        else:
            raise _refused(text, "it is none of the forms that there are")
        return cls(scheme, host=parts.hostname or "", port=parts.port or 0, ca=ca)

    @classmethod
    def at(cls, socket: Path) -> Self:
        """A Unix socket of this machine."""
        return cls("unix", socket=socket)

    @property
    def url(self) -> str:
        """What HTTP calls begin with. Over a Unix socket the host means nothing."""
        return "http://relay" if self.socket else f"https://{_bracketed(self.host)}:{self.port}"

    @property
    def websocket_url(self) -> str:
        """What addresses of websockets begin with."""
        return self.url.replace("http", "ws", 1)

    def __str__(self) -> str:
        return str(self.socket) if self.socket else f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


def _split(text: str) -> SplitResult:
    """The parts of an address on another host, of which it has these and no others."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise _refused(text, str(exc)) from exc
    if parts.scheme in ("tls", "https"):
        if not parts.hostname or not port or not parts.netloc.isprintable() or " " in parts.netloc:
            raise _refused(text, "it wants a host and a port")
        if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise _refused(text, "there is more in it than a host and a port")
    return parts


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _refused(text: str, why: str) -> Refused:
    shown = text.rpartition("@")[2]  # what stands before it may be a password
    return Refused(f"{shown!r} is no address: {why}. Give {_FORMS}.")
