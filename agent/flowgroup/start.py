"""`flowgroup start`: the daemon with its backend. The one place that knows both."""

import asyncio
import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgroup import log
from flowgroup.daemon.main import Backend, run
from flowgroup.edge.local import Local
from flowgroup.errors import Refused
from flowgroup.settings import Settings

_PR_SET_DUMPABLE = 4
_FLAGS = (
    "pool",
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
    asyncio.run(run(settings, _backend))
    return 0


def _backend(settings: Settings, folder: Path) -> Backend:
    if settings.daemon.backend == "kubernetes":
        return _kubernetes(settings)
    return Local(folder, settings.prefect, settings.driver)


def _kubernetes(settings: Settings) -> Backend:
    """Imported only where it is used, and so is all that it needs."""
    from flowgroup.edge.kubernetes.access import access
    from flowgroup.edge.kubernetes.backend import kubernetes
    from flowgroup.edge.kubernetes.client import Client

    return kubernetes(settings, Client(access(), settings.kubernetes.namespace))


def _unreadable_by_others() -> None:
    """User code runs as the same user on one machine: it must not read the token from our memory or environment."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
