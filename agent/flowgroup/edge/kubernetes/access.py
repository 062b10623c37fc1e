"""Where Kubernetes' API is and what it is shown: a pod's own service account, or a kubeconfig."""

import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from flowgroup import settings
from flowgroup.edge.processes import python
from flowgroup.errors import Refused

_OF_THE_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_GOOD_S = 60.0  # kubelet writes a new one long before the old one ends
_RENEWED_EVERY_S = 10.0
_KUBECONFIG_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Access:
    """
    `url` has no slash at its end. `namespace` is the credentials' own. `token()` gives what to show now, "" for none;
    `renewed()` the same after it was refused: it may ask a program, and so take a second.
    """

    url: str
    tls: ssl.SSLContext
    namespace: str
    token: Callable[[], str]
    renewed: Callable[[], str]


def access() -> Access:
    """
    What `KUBECONFIG` names; else this pod's service account; else the user's own kubeconfig.

    May take a second: a kubeconfig may name a program to ask. Raises Refused when there is nothing usable.
    """
    service = settings.kubernetes_service()
    if settings.kubeconfig() or service is None:
        return _from_kubeconfig()
    return of_the_pod(*service, _OF_THE_POD)


def of_the_pod(host: str, port: str, folder: Path) -> Access:
    """The access that a pod has by its service account, mounted at `folder`. Raises Refused when it is not mounted."""
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        namespace = (folder / "namespace").read_text().strip()
    except OSError as exc:
        raise Refused(
            f"this pod has no service account's token at {folder} ({exc}): set automountServiceAccountToken, or KUBECONFIG"
        ) from exc
    bracketed = f"[{host}]" if ":" in host else host
    token = _Token(lambda: _in_file(folder / "token"), good_s=_TOKEN_GOOD_S)
    return Access(f"https://{bracketed}:{port}", context, namespace, token.now, token.renewed)


class _Token:
    """A token that somebody renews: read again after `good_s` seconds, or when it is refused, but not again and again."""

    def __init__(self, read: Callable[[], str], *, good_s: float, known: str | None = None) -> None:
        self._read = read
        self._good_s = good_s
        self._token = known or ""
        self._read_at = -inf if known is None else time.monotonic()

    def now(self) -> str:
        if time.monotonic() - self._read_at > self._good_s:
            self._take()
        return self._token

    def renewed(self) -> str:
        if time.monotonic() - self._read_at > _RENEWED_EVERY_S:
            self._take()
        return self._token

    def _take(self) -> None:
        self._token, self._read_at = self._read(), time.monotonic()


def _in_file(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as exc:
        raise Refused(f"cannot read this pod's token for Kubernetes at {path}: {exc}") from exc


def _from_kubeconfig() -> Access:
    found = _read()
    context = ssl.create_default_context(cadata=found["ca"] or None)
    if not found["verify"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if found["cert"]:
        with _file(found["cert"] + "\n" + found["key"]) as path:
            context.load_cert_chain(path)
    token = _Token(lambda: str(_read()["token"]), good_s=inf, known=str(found["token"]))
    return Access(str(found["url"]).rstrip("/"), context, str(found["namespace"]), token.now, token.renewed)


def _read() -> dict[str, Any]:
    asked = subprocess.run(  # noqa: S603
        python("flowgroup.edge.kubernetes.kubeconfig"),
        env=settings.environment_without_tokens(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_KUBECONFIG_TIMEOUT_S,
    )
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise Refused(f"no access to Kubernetes: {why}. Set KUBECONFIG to a usable file, or run in a pod.")
    found: dict[str, Any] = json.loads(asked.stdout)
    return found


@contextmanager
def _file(text: str) -> Iterator[str]:
    """ssl takes a certificate from a file only. Ours alone, and gone at once."""
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        yield path
    finally:
        Path(path).unlink()
