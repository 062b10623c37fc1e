"""Which calls a server's access log has, by route. The benchmark's own are left out; websockets are not counted."""

import re
from collections import Counter
from urllib.parse import urlsplit

OURS = "bench"
"""A query that nobody reads: it tells the benchmark's own calls from the others."""
_CALL = re.compile(r'"([A-Z]+) (\S+) HTTP/1\.[01]"')
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_POOL = re.compile(r"/work_pools/[^/]+/")
_LOCKED = "(sqlite3.OperationalError) database is locked"


def routes(log: str) -> Counter[str]:
    """How often each route was called, as `POST /flow_runs/{id}/set_state`."""
    found: Counter[str] = Counter()
    for method, target in _CALL.findall(log):
        parts = urlsplit(target)
        if not re.search(rf"(^|&){OURS}(=|&|$)", parts.query):
            found[f"{method} {_route(parts.path)}"] += 1
    return found


def locked(log: str) -> int:
    """How often the server gave up on its SQLite file, for which calls may wait a minute."""
    return log.count(_LOCKED)


def _route(path: str) -> str:
    return _POOL.sub("/work_pools/{name}/", _UUID.sub("{id}", path.removeprefix("/api")))
