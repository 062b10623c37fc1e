"""Which daemon a command is about, and how its clusters are reached."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgroup.edge import operating
from flowgroup.errors import Permanent, Refused
from flowgroup.settings import Settings

if TYPE_CHECKING:
    from flowgroup.edge.kubernetes.client import Client

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """`folder` is `<home>/<pool>`; on Kubernetes it is there only in the daemon's own pod."""

    settings: Settings
    pool: str
    folder: Path
    agent_namespace: str

    @property
    def is_on_kubernetes(self) -> bool:
        return self.settings.daemon.backend == "kubernetes"

    @property
    def is_here(self) -> bool:
        """Whether the daemon is a process of this machine, or pod."""
        return operating.serves(self.folder)

    async def standing(self) -> Json:
        """What `GET /flowgroup/status` of the daemon answers. Raises Permanent and Transient."""
        import json

        if self.is_here or not self.is_on_kubernetes:
            path = "/flowgroup/status"
            read: Json = json.loads(await operating.asked_here(self.folder, self.settings.daemon.health_host, path))
            return read
        from flowgroup.edge.kubernetes.operating import standing

        async with self.kubernetes() as client:
            return await standing(client, self.agent_namespace, self.pool)

    @asynccontextmanager
    async def kubernetes(self) -> "AsyncIterator[Client]":
        """The API of the cluster where clusters are made."""
        from flowgroup.edge.kubernetes.access import access
        from flowgroup.edge.kubernetes.client import Client

        client = Client(access(), self.settings.kubernetes.namespace)
        try:
            yield client
        finally:
            await client.aclose()


def place(args: argparse.Namespace) -> Place:
    """By the flags and the environment; without a pool's name the only one that is served from the home. Raises Refused."""
    settings = Settings.read({name: getattr(args, name, None) for name in ("pool", "home", "backend")})
    home = settings.daemon.home.expanduser().absolute()
    pool = settings.daemon.pool or _only(home)
    return Place(settings, pool, home / pool, getattr(args, "agent_namespace", "flowgroup"))


def _only(home: Path) -> str:
    served = [folder.name for folder in operating.folders(home)]
    if len(served) == 1:
        return served[0]
    why = f"{len(served)} daemons serve from {home}: {', '.join(served)}" if served else f"no daemon serves from {home}"
    raise Refused(f"which work pool? {why}. Say --pool (FLOWGROUP_POOL) or another --home.")


def one_of(standing: Json, name: str) -> Json:
    """The cluster of that name, or of the only one whose name begins so. Raises Permanent."""
    found = [one for one in standing["clusters"] if one["name"] == name]
    found = found or [one for one in standing["clusters"] if str(one["name"]).startswith(name)]
    if len(found) == 1:
        only: Json = found[0]
        return only
    there = ", ".join(one["name"] for one in found or standing["clusters"]) or "none"
    raise Permanent(f"there is {'no' if not found else 'more than one'} cluster {name!r}; there are: {there}")
