"""The two processes of `flowgroup certs`, against Kubernetes' API."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flowgroup import retry
from flowgroup.edge.certs import api
from flowgroup.edge.certs.keeping import Wanted, keep

_PATIENCE_S = 60.0  # a new pod's way to the API may open seconds after it has started


class Access(NamedTuple):
    """Kubernetes' API, and the folder with the service account's `token` and `ca.crt`."""

    server: str
    account: Path


class Readers(NamedTuple):
    """Who trusts the CA: a ConfigMap of this name in each of these namespaces."""

    config_map: str
    namespaces: Sequence[str]


async def make(access: Access, namespace: str, wanted: Wanted, readers: Readers) -> list[str]:
    """
    See that the namespace's Secrets are as wanted, and publish the CA if it is ours: a sentence for each.

    Raises Refused, Permanent and Transient.
    """
    async with api.kubernetes(*access) as client:
        there = api.NamespaceSecrets(client, namespace)
        kept = await retry.until(lambda: keep(there, wanted, datetime.now(UTC)), timeout_s=_PATIENCE_S)
    published = await publish(access, readers, kept.trusted.decode()) if kept.trusted else []
    return kept.said + published


async def publish(access: Access, readers: Readers, ca: str) -> list[str]:
    """Write the CA (PEM) into the ConfigMap of every namespace: a sentence for each. Raises as `make` does."""
    async with api.kubernetes(*access) as client:
        for namespace in readers.namespaces:
            await retry.until(partial(api.publish, client, namespace, readers.config_map, ca), timeout_s=_PATIENCE_S)
    return [f"{namespace}/{readers.config_map}: written" for namespace in readers.namespaces]
