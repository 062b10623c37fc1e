"""The two processes of `flowgroup certs`, against Kubernetes' API."""

from collections.abc import Mapping, Sequence
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


async def make(access: Access, namespace: str, wanted: Wanted, metadata: Mapping[str, Mapping[str, str]]) -> list[str]:
    """See that the namespace's Secrets are as wanted: a sentence for each. Raises Refused, Permanent and Transient."""
    async with api.kubernetes(*access) as client:
        there = api.NamespaceSecrets(client, namespace, metadata)
        return await retry.until(lambda: keep(there, wanted, datetime.now(UTC)), timeout_s=_PATIENCE_S)


async def publish(access: Access, config_map: str, namespaces: Sequence[str], ca: str) -> None:
    """Write the CA (PEM) into the ConfigMap of every namespace. Raises Refused, Permanent and Transient."""
    async with api.kubernetes(*access) as client:
        for namespace in namespaces:
            await retry.until(partial(api.publish, client, namespace, config_map, ca), timeout_s=_PATIENCE_S)
