"""`flowgroup start`: the daemon with its backend. The one place that knows both."""

import asyncio
import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgroup import log, memory
from flowgroup.daemon.lead import Seat
from flowgroup.daemon.main import Backend, run
from flowgroup.edge.fence import Fence
from flowgroup.edge.local import Local
from flowgroup.errors import Refused
from flowgroup.settings import Settings

_PR_SET_DUMPABLE = 4
_FLAGS = (
    "pool",
    "stand_by",
    "backend",
    "home",
    "slots",
    "queues",
    "name",
    "poll_interval_s",
    "health_port",
    "public_keys",
)


def start(flags: Mapping[str, Any]) -> int:
    """Serve until a signal comes. Returns the exit status; raises Refused for wrong input."""
    settings = Settings.read({name: flags.get(name) for name in _FLAGS})
    if settings.prefect.api_url is None:
        raise Refused("PREFECT_API_URL is not set: the address of Prefect's API, for example http://127.0.0.1:4200/api")
    log.configure(room="daemon", level=settings.daemon.log_level)
    _unreadable_by_others()
    memory.gives_back()
    asyncio.run(run(settings, _backend, seat=_seat(settings)))
    return 0


def _backend(settings: Settings, folder: Path, fence: Fence) -> Backend:
    if settings.daemon.backend == "kubernetes":
        return _kubernetes(settings, fence)
    return Local(folder, settings.prefect, settings.driver, settings.daemon.dashboards)


def _kubernetes(settings: Settings, fence: Fence) -> Backend:
    """Imported only where it is used, and so is all that it needs."""
    from flowgroup.edge.kubernetes.access import access
    from flowgroup.edge.kubernetes.backend import kubernetes
    from flowgroup.edge.kubernetes.client import Client

    return kubernetes(settings, Client(access(), settings.kubernetes.namespace, fence=fence))


def _seat(settings: Settings) -> Seat | None:
    """What daemons on several hosts take turns by. None: the lock of their home."""
    if settings.daemon.backend != "kubernetes" or not settings.daemon.stand_by:
        return None
    if not settings.daemon.name:
        raise Refused(
            "FLOWGROUP_NAME is not set: daemons that stand by for each other need the same name, by which one knows the "
            "other's runs"
        )
    from flowgroup.edge.kubernetes.access import access
    from flowgroup.edge.kubernetes.client import Client
    from flowgroup.edge.kubernetes.leader import LeaseSeat

    return LeaseSeat(Client(access()), settings.kubernetes.lease, Fence())


def _unreadable_by_others() -> None:
    """User code runs as the same user on one machine: it must not read the token from our memory or environment."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
