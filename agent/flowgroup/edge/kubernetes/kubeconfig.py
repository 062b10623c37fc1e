"""
A process of its own that reads a kubeconfig, so that the daemon never pays for it.

It is started as `python -m flowgroup.edge.kubernetes.kubeconfig`.

Kubernetes' own client knows all that such a file may say (several files, contexts, certificates, tokens, programs that are
asked for one), and takes 12 to 21 MB of memory. What it found is written to standard output as JSON: `url`, `token`, `ca`,
`cert` and `key` (PEM), `verify`, `namespace`.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Write what the kubeconfig says; exits with the trouble as text when it cannot be read."""
    try:
        from kubernetes.client import Configuration
        from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config
    except ImportError as exc:
        sys.exit(f"{exc}: install flowgroup[kubernetes] to use a kubeconfig")

    found: Any = Configuration()
    try:
        load_kube_config(client_configuration=found)  # type: ignore[no-untyped-call]
        _, context = list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, ValueError, TypeError) as exc:
        sys.exit(f"{exc}")
    told = {
        "url": found.host,
        "token": next(iter((found.api_key or {}).values()), "").removeprefix("Bearer "),
        "ca": _text(found.ssl_ca_cert),
        "cert": _text(found.cert_file),
        "key": _text(found.key_file),
        "verify": bool(found.verify_ssl),
        "namespace": context["context"].get("namespace") or "default",
    }
    json.dump(told, sys.stdout)


def _text(path: str | None) -> str:
    return Path(path).read_text() if path else ""


if __name__ == "__main__":
    main()
