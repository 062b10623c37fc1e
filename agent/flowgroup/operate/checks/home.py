"""The daemon and its home: files, disk, lock, ports, and what the daemon says of itself."""

import fcntl
import os
import resource
import shutil
import socket
import stat
from datetime import UTC, datetime
from pathlib import Path

from flowgroup.edge import operating
from flowgroup.model.endpoint import Endpoint
from flowgroup.operate.checks.base import Check, Seen, Unknown, Wrong

_FREE_BYTES = 1024**3
_FREE_SHARE = 0.05
_SOCKET_MAX = 107  # of a Unix socket's path, by the kernel
_LATE_S = 60.0
_FILES_MIN = 1024
_MIB = 1024**2


def _home(seen: Seen) -> Path:
    return seen.where.settings.daemon.home.expanduser().absolute()


def _nearest(path: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


async def _writable(seen: Seen) -> str:
    folder = seen.where.folder
    there = _nearest(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Wrong(f"{there} cannot be written to")
    return str(folder)


async def _private(seen: Seen) -> str:
    folder = seen.where.folder
    if not folder.exists():
        raise Unknown(f"{folder} is not there yet")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise Wrong(f"{folder} has mode {mode:o}: others on this machine could reach the daemon's socket")
    return f"mode {mode:o}"


async def _disk(seen: Seen) -> str:
    free = shutil.disk_usage(_nearest(seen.where.folder))
    if free.free < _FREE_BYTES or free.free < _FREE_SHARE * free.total:
        raise Wrong(f"{free.free // _MIB} MiB of {free.total // _MIB} are free at {_home(seen)}")
    return f"{free.free // _MIB} MiB free"


async def _open_files(seen: Seen) -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES_MIN:
        raise Wrong(f"a process may have {soft} files open here, and a busy daemon wants {_FILES_MIN}")
    return f"{soft} a process"


async def _lock(seen: Seen) -> str:
    path = seen.where.folder / "daemon.lock"
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError as exc:
        raise Wrong(f"no daemon has ever served from {seen.where.folder}") from exc
    except OSError:
        return "held: a daemon serves"
    raise Wrong(f"nobody holds {path}: no daemon serves the pool from this home")


async def _answers(seen: Seen, path: str) -> str:
    return (await operating.asked_here(seen.where.folder, seen.where.settings.daemon.health_host, path)).strip()


async def _alive(seen: Seen) -> str:
    return await _answers(seen, "/livez")


async def _ready(seen: Seen) -> str:
    return await _answers(seen, "/readyz")


async def _standing(seen: Seen) -> str:
    seen.known["standing"] = told = await seen.where.standing()
    return f"{len(told['clusters'])} clusters, {len(told['runs'])} runs"


async def _last_poll(seen: Seen) -> str:
    told = seen.known["standing"]
    if told["last_poll_at"] is None:
        raise Wrong("the daemon has not got an answer of the API yet")
    late_s = (datetime.now(UTC) - datetime.fromisoformat(told["last_poll_at"])).total_seconds()
    if late_s > _LATE_S + seen.where.settings.daemon.poll_interval_s:
        raise Wrong(f"the last poll that succeeded was {late_s:.0f} s ago")
    return f"{late_s:.0f} s ago"


async def _loops(seen: Seen) -> str:
    if stuck := seen.known["standing"]["stuck"]:
        raise Wrong(f"stuck: {', '.join(stuck)}")
    return "all loops come round"


async def _slots(seen: Seen) -> str:
    slots = seen.known["standing"]["slots"]
    if slots["held"] >= slots["total"]:
        raise Wrong(f"all {slots['total']} slots are taken: runs wait for one")
    return f"{slots['held']} of {slots['total']} taken"


async def _clusters(seen: Seen) -> str:
    troubles = [f"{one['name']}: {one['trouble']}" for one in seen.known["standing"]["clusters"] if one["trouble"]]
    if troubles:
        raise Wrong("; ".join(troubles))
    return f"{len(seen.known['standing']['clusters'])}, none in trouble"


async def _socket_path(seen: Seen) -> str:
    path = str(seen.where.folder / "daemon.sock")
    if len(os.fsencode(path)) > _SOCKET_MAX:
        raise Wrong(f"{path} has {len(os.fsencode(path))} bytes, and a Unix socket's path at most {_SOCKET_MAX}")
    return path


async def _relay(seen: Seen) -> str:
    path = seen.where.folder / "relay.sock"
    if not path.exists():
        raise Unknown("the daemon starts it with the first run")
    await operating.relay_answers(Endpoint.at(path))
    return "it answers"


async def _port(seen: Seen) -> str:
    daemon = seen.where.settings.daemon
    if daemon.health_port == 0:
        return "a free one is chosen"
    if seen.where.is_here:
        return f"{daemon.health_port} is the daemon's"
    try:
        with socket.create_server((daemon.health_host, daemon.health_port)):
            return f"{daemon.health_port} is free"
    except OSError as exc:
        raise Wrong(f"{daemon.health_host}:{daemon.health_port}: {exc}") from exc


_LOG = "the log of the daemon says why"

CHECKS = [
    Check("home-writable", _writable, "give --home (FLOWGROUP_HOME) a folder that this user may write to"),
    Check("home-private", _private, "chmod 700 the folder; the daemon does so when it starts", "home-writable"),
    Check("disk", _disk, "make room: old runs' folders are below clusters/*/runs, waiting records in spool/"),
    Check("open-files", _open_files, "raise it: ulimit -n 65536, or LimitNOFILE= of the service"),
    Check("health-port", _port, "choose another --health-port (FLOWGROUP_HEALTH_PORT), or 0 for a free one"),
    Check("daemon-status", _standing, "start the daemon (flowgroup start), or give this command its --home and --pool"),
    Check("last-poll", _last_poll, f"see the checks of the API; {_LOG}", "daemon-status"),
    Check("loops", _loops, f"restart the daemon, runs go on meanwhile; {_LOG}", "daemon-status"),
    Check("slots", _slots, "raise --slots (FLOWGROUP_SLOTS), or wait for runs to end", "daemon-status"),
    Check("clusters", _clusters, "flowgroup logs --cluster NAME; flowgroup cluster reset NAME", "daemon-status"),
]

LOCAL = [
    Check("socket-path", _socket_path, "give --home (FLOWGROUP_HOME) a shorter path, or the pool a shorter name"),
    Check("daemon-lock", _lock, "flowgroup start --pool NAME"),
    Check("daemon-alive", _alive, f"restart the daemon, runs go on meanwhile; {_LOG}", "daemon-lock"),
    Check("daemon-ready", _ready, f"it has not got an answer of Prefect's API yet; {_LOG}", "daemon-lock"),
    Check(
        "relay", _relay, "see relay.log in the pool's folder; the daemon starts a relay that has ended", "daemon-lock"
    ),
]
