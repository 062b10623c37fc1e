"""
TLS between hosts: whom we trust, what we show, and what to do when it fails.

Files may be replaced at any time (a rotated certificate, a new authority): every new connection looks whether they were,
so that nothing has to be started again.
"""

import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from flowgroup import log
from flowgroup.errors import Refused
from flowgroup.model.endpoint import Endpoint

_OPTION = "--ca of a driver, FLOWGROUP_KUBERNETES_CA_FILE of the daemon"
_NOT_FOR_THE_HOST = (62, 64)  # OpenSSL's X509_V_ERR_…
_NOT_IN_TIME = (9, 10)
_NOT_SIGNED_BY_THE_CA = (18, 19, 20, 21)


class _Following(ssl.SSLContext):
    """
    A context that is as its files are now. Whoever opens a connection with it needs to know nothing of that.

    asyncio and httpx make a connection's TLS with `wrap_bio`, and only there the files are looked at.
    """

    _make: Callable[[], ssl.SSLContext]
    _files: tuple[Path, ...]
    _stamp: object
    _now: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._now = self._make()
            except (
                Refused
            ) as exc:  # half of the files are there, it may be; the next connection looks again if they change
                log.get().error("certificates_not_taken", reason=str(exc), then="going on with those from before")
            else:
                log.get().info("certificates_read_again", files=[str(file) for file in self._files])
        return self._now.wrap_bio(*args, **kwargs)


def _following(protocol: int, make: Callable[[], ssl.SSLContext], files: tuple[Path, ...]) -> ssl.SSLContext:
    made = _Following(protocol)
    made._make, made._files = make, files
    made._stamp, made._now = _stamp(files), make()
    return made


def _stamp(files: tuple[Path, ...]) -> object:
    """Changes whenever one of the files does, also when it is a link that points elsewhere now (as in Kubernetes)."""
    try:
        return tuple((found.st_mtime_ns, found.st_ino, found.st_size) for found in map(Path.stat, files))
    except OSError as exc:
        return type(exc)


@cache
def trusting(ca: Path | None) -> ssl.SSLContext:
    """
    For dialling: the other side's certificate must be for its host, and signed by an authority in the PEM file `ca`
    (None: by one that the system trusts). Raises Refused when the file cannot be read.
    """
    if ca is None:
        return _trusting(None)
    return _following(ssl.PROTOCOL_TLS_CLIENT, lambda: _trusting(ca), (ca,))


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise Refused(f"cannot read the authorities' certificates in {ca} ({_OPTION}): {exc}") from exc
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def checked(at: Endpoint) -> None:
    """Raises Refused when the authorities for this address cannot be read."""
    if at.socket is None:
        trusting(at.ca)


def showing(cert: Path, key: Path) -> ssl.SSLContext:
    """For listening: `cert` (the chain) and `key` are PEM files. Raises Refused when they cannot be used."""
    return _following(ssl.PROTOCOL_TLS_SERVER, lambda: _showing(cert, key), (cert, key))


def _showing(cert: Path, key: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as exc:
        raise Refused(
            f"the certificate {cert} with the key {key} cannot be used: {exc}. Both are PEM files, the key is that of "
            "the certificate and has no password."
        ) from exc
    return made


def explained(error: BaseException, at: Endpoint | None) -> str | None:
    """What a failed call says about the TLS of a room of ours, with the remedy; None if TLS was not what failed."""
    found = _in_chain(error)
    if at is None or found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"{at}: {found.verify_message}. {_remedy(found.verify_code, at)}"
    return f"{at}: {found.reason or found}. Is it the right port, and does it speak TLS?"


def certificate_trouble(error: BaseException) -> str | None:
    """What is wrong with somebody else's certificate; None if that was not what failed."""
    found = _in_chain(error)
    return f"its certificate: {found.verify_message}" if isinstance(found, ssl.SSLCertVerificationError) else None


def _in_chain(error: BaseException) -> ssl.SSLError | None:
    found: BaseException | None = error
    while found is not None and not isinstance(found, ssl.SSLError):
        found = found.__cause__ or found.__context__
    return found


def _remedy(code: int, at: Endpoint) -> str:
    if code in _NOT_FOR_THE_HOST:
        return f"Its certificate must name {at.host!r} (subjectAltName), or the address must be one that it names."
    if code in _NOT_IN_TIME:
        return "Renew its certificate, and look at the clocks of both hosts."
    if code in _NOT_SIGNED_BY_THE_CA:
        whose = f"in {at.ca}" if at.ca else "that this system trusts"
        return (
            f"Its certificate is signed by none of the authorities {whose}: {_OPTION} must name the one that signed it."
        )
    return "Look at its certificate, and at the authority that signed it."
