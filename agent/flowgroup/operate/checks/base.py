"""What a check is, and what it looks through."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.wire import Wire
from flowgroup.operate.place import Place

Json = dict[str, Any]


class Wrong(Exception):
    """What is wrong, and what puts it right; without `fix` the check's own."""

    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(detail)
        self.fix = fix


class Unknown(Exception):
    """Why it cannot be seen from here."""


@dataclass(frozen=True, slots=True)
class Seen:
    """`wire` and `client` are None where there is no way to Prefect's API or Kubernetes'; `no_…` says why."""

    where: Place
    wire: Wire | None = None
    no_wire: str = ""
    client: Client | None = None
    no_client: str = ""
    known: Json = field(default_factory=dict)
    """What a check has found out for those after it."""


@dataclass(frozen=True, slots=True)
class Check:
    """`needs`: the check that has to be well before this one says anything."""

    name: str
    look: Callable[[Seen], Awaitable[str]]
    fix: str
    needs: str = ""


def wire_of(seen: Seen) -> Wire:
    if seen.wire is None:
        raise Wrong(seen.no_wire)
    return seen.wire


def client_of(seen: Seen) -> Client:
    if seen.client is None:
        raise Wrong(seen.no_client)
    return seen.client
