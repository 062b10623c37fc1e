"""Prefect's API: that it is there, that we may speak with it, and that the pool is as the daemon needs it."""

import asyncio
import socket
import uuid
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlsplit

import httpx

from flowgroup.edge.events import Events
from flowgroup.edge.pools import completed
from flowgroup.edge.wire import NotFound, Unauthorized
from flowgroup.model.variables import POOL_TYPE
from flowgroup.operate.checks.base import Check, Json, Seen, Unknown, Wrong, wire_of

_SKEW_S = 5.0
_KNOWN = ("3.8.",)
_PROBED_STATE = {"state": {"type": "PENDING", "name": "Pending"}, "force": False}


async def _address(seen: Seen) -> str:
    return wire_of(seen).url


async def _name(seen: Seen) -> str:
    host = urlsplit(wire_of(seen).url).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise Wrong(f"{host}: {exc}") from exc
    return f"{host} is {found[0][4][0]}"


async def _reachable(seen: Seen) -> str:
    wire = wire_of(seen)
    await wire.call("GET", "/health")
    return f"{wire.url} answers"


async def _key(seen: Seen) -> str:
    await wire_of(seen).call("POST", "/work_pools/filter", {"limit": 1})
    return "the API takes what we show"


async def _rights(seen: Seen) -> str:
    """Calls that change nothing: a state for a run that there is not, and no log lines."""
    lacking = []
    for what, path, body in (
        ("set runs' states", f"/flow_runs/{uuid.uuid4()}/set_state", _PROBED_STATE),
        ("write logs", "/logs/", []),
        ("read deployments", "/deployments/filter", {"limit": 1}),
        ("read runs", "/flow_runs/filter", {"limit": 1}),
    ):
        try:
            await wire_of(seen).call("POST", path, body)
        except NotFound:
            continue
        except Unauthorized:
            lacking.append(what)
    if lacking:
        raise Wrong(f"the key may not {', '.join(lacking)}")
    return "runs, states, logs and deployments"


async def _version(seen: Seen) -> str:
    if ".prefect.cloud" in wire_of(seen).url:
        raise Unknown("Prefect Cloud has no version")
    version = str(await wire_of(seen).call("GET", "/admin/version"))
    if not version.startswith(_KNOWN):
        raise Wrong(f"the server is Prefect {version}, and this agent was made for 3.8")
    return f"Prefect {version}"


async def _clock(seen: Seen) -> str:
    wire = wire_of(seen)
    before = datetime.now(UTC)
    try:
        said = (await wire.http.get(f"{wire.url}/health")).headers.get("date")
    except httpx.RequestError as exc:
        raise Wrong(f"{type(exc).__name__}") from exc
    if not said:
        raise Unknown("the API's answers have no date")
    took_s = (datetime.now(UTC) - before).total_seconds()
    skew_s = (parsedate_to_datetime(said) - before).total_seconds()
    if abs(skew_s) > _SKEW_S + took_s:
        raise Wrong(f"this machine's clock is {-skew_s:+.0f} s off the API's")
    return f"within {_SKEW_S:.0f} s of the API's"


async def _events(seen: Seen) -> str:
    settings = seen.where.settings
    if not settings.daemon.events:
        raise Unknown("FLOWGROUP_EVENTS is false")
    await Events(settings.prefect, str(uuid.uuid4())).tried()
    return "the event stream connects"


async def _pool(seen: Seen) -> str:
    pool: Json = await wire_of(seen).call("GET", f"/work_pools/{quote(seen.where.pool, safe='')}")
    seen.known["pool"] = pool
    return seen.where.pool


async def _pool_type(seen: Seen) -> str:
    kind = seen.known["pool"]["type"]
    if kind != POOL_TYPE:
        raise Wrong(f"the work pool is of type {kind!r}, not {POOL_TYPE!r}")
    return str(kind)


async def _pool_template(seen: Seen) -> str:
    template = seen.known["pool"].get("base_job_template") or {}
    ours, theirs = completed(template), template.get("variables", {}).get("properties", {})
    lacking = sorted(set(ours["variables"]["properties"]) - set(theirs))
    if lacking:
        raise Wrong(f"the pool's template lacks {', '.join(lacking)}")
    return f"{len(theirs)} variables, none of ours lacks"


async def _pool_open(seen: Seen) -> str:
    pool = seen.known["pool"]
    if pool.get("is_paused"):
        raise Wrong("the work pool is paused", "resume it: prefect work-pool resume NAME")
    if pool.get("concurrency_limit") == 0:
        raise Wrong(
            "the work pool's concurrency limit is 0", "raise it: prefect work-pool set-concurrency-limit NAME N"
        )
    return f"open, concurrency limit {pool.get('concurrency_limit') or 'none'}"


async def _worker(seen: Seen) -> str:
    path = f"/work_pools/{quote(seen.where.pool, safe='')}/workers/filter"
    online = [one["name"] for one in await wire_of(seen).call("POST", path, {}) if one.get("status") == "ONLINE"]
    if not online:
        raise Wrong("Prefect sees no worker of this pool online")
    return f"online: {', '.join(sorted(online))}"


CHECKS = [
    Check("api-address", _address, "set PREFECT_API_URL to the API's address, which ends in /api"),
    Check("api-name", _name, "correct PREFECT_API_URL, or this machine's DNS (/etc/resolv.conf)", "api-address"),
    Check("api-reachable", _reachable, "start the server, or open the way to it (proxy, firewall, TLS)", "api-name"),
    Check("api-key", _key, "set PREFECT_API_KEY (Cloud) or PREFECT_API_AUTH_STRING (user:password)", "api-reachable"),
    Check(
        "api-rights", _rights, "give the key's account a role that may run flows (Cloud: Runner or Worker)", "api-key"
    ),
    Check("api-version", _version, "use a Prefect 3.8 server, or a flowgroup that was made for this one", "api-key"),
    Check("clock", _clock, "let this machine's clock be set by NTP", "api-reachable"),
    Check(
        "event-stream",
        _events,
        "let websockets through to /api/events/out; until then the poll alone serves",
        "api-key",
    ),
    Check("pool", _pool, "start the daemon, which makes it: flowgroup start --pool NAME", "api-key"),
    Check("pool-type", _pool_type, "choose another --pool, or delete that one: the daemon makes its own", "pool"),
    Check("pool-template", _pool_template, "restart the daemon: it adds what lacks", "pool-type"),
    Check("pool-open", _pool_open, "resume the pool", "pool"),
    Check("worker-online", _worker, "start the daemon, or see its log for why it cannot reach the API", "pool"),
]
