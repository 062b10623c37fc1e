"""
Prefect's API as an ASGI app: claims, limits, leases and terminal states as the real server keeps them.

`fail(pattern, how, times)` makes calls whose `METHOD /path` matches go wrong: a status code, `html` (a page instead of
JSON), `lost` (the call is done, and its answer never arrives) or, in virtual time, `late` (that, and it is done afterwards).
"""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

TERMINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
Json = Any


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Fault:
    pattern: str
    how: int | str
    times: int
    headers: dict[str, str] = field(default_factory=dict)


class LostAnswerError(httpx.ReadError):
    def __init__(self) -> None:
        super().__init__("the connection broke before the answer came")


@dataclass
class FakePrefect:
    """`prefix` and `key`, when set, are demanded of every call, as Prefect Cloud does."""

    prefix: str = "/api"
    key: str | None = None
    now: Callable[[], datetime] = utc_now
    pools: dict[str, Json] = field(default_factory=dict)
    flows: dict[str, Json] = field(default_factory=dict)
    deployments: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    history: dict[str, list[Json]] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    queues: dict[str, Json] = field(default_factory=lambda: {"queue": {"id": "queue", "name": "default"}})
    storage: str | None = None
    blocks: dict[str, Json] = field(default_factory=dict)
    variables: dict[str, Json] = field(default_factory=dict)
    workers: set[str] = field(default_factory=set)
    version: str = "3.8.8"
    logs: list[Json] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    junk: list[Json] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    # What a test arranges and looks at

    def fail(self, pattern: str, how: int | str, times: int = 1, **headers: str) -> None:
        self.faults.append(Fault(pattern, how, times, headers))

    def add_deployment(self, flow: str = "etl", name: str = "dev", **fields: Any) -> str:
        flow_id = next((one for one, known in self.flows.items() if known["name"] == flow), None) or str(uuid.uuid4())
        self.flows[flow_id] = {"id": flow_id, "name": flow}
        made = str(uuid.uuid4())
        self.deployments[made] = {
            "id": made,
            "name": name,
            "flow_id": flow_id,
            "version": "v1",
            "entrypoint": "flow.py:etl",
            "pull_steps": [],
            "job_variables": {},
            "concurrency_limit": None,
            **fields,
        }
        return made

    def add_run(self, deployment: str | None, *, in_s: float = 0.0, name: str = "run", **fields: Any) -> str:
        made = str(uuid.uuid4())
        at = (self.now() + timedelta(seconds=in_s)).isoformat()
        flow_id = self.deployments[deployment]["flow_id"] if deployment else str(uuid.uuid4())
        self.runs[made] = {
            "id": made,
            "name": name,
            "flow_id": flow_id,
            "deployment_id": deployment,
            "deployment_version": "v1",
            "expected_start_time": at,
            "next_scheduled_start_time": at,
            "job_variables": {},
            "tags": [],
            "work_pool_name": "pool",
            "work_queue_id": "queue",
            "parent_flow_run_id": None,
            "empirical_policy": {},
            **fields,
        }
        self.history[made] = []
        self.put_state(made, "SCHEDULED", scheduled_time=at)
        return made

    def put_state(self, run: str, type_: str, name: str | None = None, **details: Any) -> Json:
        state = {
            "type": type_,
            "name": name or type_.capitalize(),
            "message": details.pop("message", None),
            "timestamp": self.now().isoformat(),
            "state_details": {"transition_id": None, "deployment_concurrency_lease_id": None, **details},
        }
        self.runs[run]["state"] = state
        self.history[run].append(state)
        if type_ == "SCHEDULED" and details.get("scheduled_time"):
            self.runs[run]["next_scheduled_start_time"] = details["scheduled_time"]
        if type_ in TERMINAL | {"SCHEDULED"}:
            self.leases = {lease: holder for lease, holder in self.leases.items() if holder != run}
        return state

    def states(self, run: str) -> list[str]:
        return [state["type"] for state in self.history[run]]

    def message(self, run: str) -> str:
        return str(self.runs[run]["state"]["message"])

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, call)) for call in self.calls)

    # ASGI

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.headers.append(headers)
        query = scope.get("query_string", b"").decode()
        code, answer, extra = self.answer(scope["method"], scope["path"], query, headers, body)
        content = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        await send(
            {
                "type": "http.response.start",
                "status": code,
                "headers": [(name.encode(), value.encode()) for name, value in extra.items()],
            }
        )
        await send({"type": "http.response.body", "body": content})

    def fault_of(self, what: str) -> Fault | None:
        """What is to go wrong with the call `METHOD /path`."""
        return next((one for one in self.faults if one.times > 0 and re.search(one.pattern, what)), None)

    def answer(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Json, dict[str, str]]:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"detail": "Unauthorized"}, {}
        if not path.startswith(self.prefix):
            return 404, {"detail": "Not Found"}, {}
        path = path.removeprefix(self.prefix)
        what = f"{method} {path}"
        self.calls.append(what)
        fault = self.fault_of(what)
        if fault is None or fault.how == "late":
            return (*self._route(method, path, query, json.loads(body) if body else {}), {})
        fault.times -= 1
        if fault.how == "lost":
            self._route(method, path, query, json.loads(body) if body else {})
            raise LostAnswerError
        if fault.how == "html":
            return 200, b"<html>A proxy was here</html>", {"content-type": "text/html"}
        assert isinstance(fault.how, int)
        return fault.how, {"detail": "told to fail"}, fault.headers

    def _route(self, method: str, path: str, query: str, body: Json) -> tuple[int, Json]:
        routes: list[tuple[str, Callable[..., tuple[int, Json]]]] = [
            (r"POST /work_pools/", lambda: self._create_pool(body)),
            (r"GET /work_pools/([^/]+)", self._read_pool),
            (r"PATCH /work_pools/([^/]+)", lambda name: self._patch_pool(name, body)),
            (r"POST /work_pools/([^/]+)/get_scheduled_flow_runs", lambda name: self._due(name, body)),
            (r"GET /health", lambda: (200, True)),
            (r"GET /admin/version", lambda: (200, self.version)),
            (r"POST /work_pools/filter", lambda: (200, list(self.pools.values()))),
            (r"POST /work_pools/([^/]+)/workers/filter", lambda _: (200, self._workers())),
            (r"POST /deployments/filter", lambda: (200, list(self.deployments.values()))),
            (r"GET /deployments/name/([^/]+)/([^/]+)", self._deployment_named),
            (r"POST /work_pools/([^/]+)/workers/heartbeat", lambda name: self._heartbeat(name, body)),
            (r"DELETE /work_pools/([^/]+)/workers/(.+)", lambda _, worker: self._remove(worker)),
            (r"POST /flow_runs/filter", lambda: self._filter(body)),
            (r"POST /flow_runs/count", lambda: (200, len(self._filter({**body, "offset": 0, "limit": 1_000_000})[1]))),
            (r"GET /flow_runs/([^/]+)", lambda run: self._read(self.runs, run)),
            (r"POST /flow_runs/([^/]+)/set_state", lambda run: self._set_state(run, body["state"])),
            (r"GET /flow_run_states/", lambda: (200, self.history.get(query.removeprefix("flow_run_id="), []))),
            (r"GET /deployments/([^/]+)", lambda one: self._read(self.deployments, one)),
            (r"GET /flows/([^/]+)", lambda one: self._read(self.flows, one)),
            (r"POST /v2/concurrency_limits/leases/([^/]+)/renew", self._renew),
            (r"POST /logs/", lambda: self._log(body)),
            (r"GET /work_queues/([^/]+)", lambda one: self._read(self.queues, one)),
            (
                r"GET /block_types/slug/([^/]+)/block_documents/name/([^/]+)",
                lambda slug, name: self._read(self.blocks, f"{slug}/{name}"),
            ),
            (r"GET /variables/name/([^/]+)", lambda name: self._read(self.variables, name)),
            (r"GET /admin/storage", lambda: (200, {"default_result_storage_block_id": self.storage})),
        ]
        for pattern, route in routes:
            if match := re.fullmatch(pattern, f"{method} {path}"):
                return route(*match.groups())
        return 404, {"detail": "Not Found"}

    def _workers(self) -> Json:
        return [{"name": name, "status": "ONLINE"} for name in self.workers]

    def _deployment_named(self, flow: str, name: str) -> tuple[int, Json]:
        for one in self.deployments.values():
            if (self.flows[one["flow_id"]]["name"], one["name"]) == (flow, name):
                return 200, one
        return 404, {"detail": "Not Found"}

    def _create_pool(self, body: Json) -> tuple[int, Json]:
        if body["name"] in self.pools:
            return 409, {"detail": "A work pool with this name already exists."}
        self.pools[body["name"]] = {"id": str(uuid.uuid4()), "is_paused": False, **body}
        return 201, self.pools[body["name"]]

    def _read_pool(self, name: str) -> tuple[int, Json]:
        return self._read(self.pools, name)

    def _patch_pool(self, name: str, body: Json) -> tuple[int, Json]:
        self.pools[name].update(body)
        return 204, None

    def _read(self, things: dict[str, Json], name: str) -> tuple[int, Json]:
        return (200, things[name]) if name in things else (404, {"detail": "Not Found"})

    def _heartbeat(self, pool: str, body: Json) -> tuple[int, Json]:
        if pool not in self.pools:
            return 404, {"detail": "Not Found"}
        self.workers.add(body["name"])
        return 204, None

    def _remove(self, worker: str) -> tuple[int, Json]:
        self.workers.discard(worker)
        return 204, None

    def _log(self, body: Json) -> tuple[int, Json]:
        self.logs += body
        return 201, None

    def _renew(self, lease: str) -> tuple[int, Json]:
        if lease not in self.leases:
            return 410, {"detail": "Gone"}
        self.renewed.append(lease)
        return 204, None

    def _due(self, pool: str, body: Json) -> tuple[int, Json]:
        if pool not in self.pools:
            return 404, {"detail": "Not Found"}
        before = datetime.fromisoformat(body["scheduled_before"])
        after = datetime.fromisoformat(body.get("scheduled_after", "2000-01-01T00:00:00+00:00"))
        due = [
            run
            for run in self.runs.values()
            if run["state"]["type"] == "SCHEDULED"
            and run["work_pool_name"] == pool
            and after <= datetime.fromisoformat(run["next_scheduled_start_time"]) <= before
            and run["empirical_policy"].get("retry_type") != "in_process"
        ]
        due.sort(key=lambda run: (run.get("priority", 1), run["next_scheduled_start_time"]))
        items = [{"work_pool_id": "x", "flow_run": {**run, "state": None}} for run in due]
        return 200, self.junk + items[: body["limit"]]

    def _filter(self, body: Json) -> tuple[int, Json]:
        wanted = body.get("flow_runs", {})
        ids = wanted.get("id", {}).get("any_")
        parents = wanted.get("parent_flow_run_id", {}).get("any_")
        of = wanted.get("deployment_id", {}).get("any_")
        before = wanted.get("next_scheduled_start_time", {}).get("before_")
        pools = body.get("work_pools", {}).get("name", {}).get("any_")
        among = self.runs.values() if ids is None else [self.runs[one] for one in ids if one in self.runs]
        found = [
            run
            for run in among
            if _in_state(run, wanted.get("state", {}))
            and (of is None or run["deployment_id"] in of)
            and (before is None or _moment(run["next_scheduled_start_time"]) <= _moment(before))
            and (parents is None or run["parent_flow_run_id"] in parents)
            and (pools is None or run["work_pool_name"] in pools)
        ]
        found.sort(key=lambda run: str(run["id"]), reverse=True)
        offset = body.get("offset", 0)
        return 200, found[offset:][: body["limit"]]

    def _set_state(self, run_id: str, state: Json) -> tuple[int, Json]:
        run = self.runs.get(run_id)
        if run is None:
            return 404, {"detail": "Not Found"}
        now, wanted, details = run["state"], state["type"], dict(state.get("state_details") or {})
        ours = details.get("transition_id")
        if ours and now["state_details"].get("transition_id") == ours:
            return self._said(run, "REJECT", "This run has already made this state transition.")
        if wanted == now["type"] == "PENDING" and state.get("name") not in {now["name"], "Pending"}:
            details["deployment_concurrency_lease_id"] = now["state_details"]["deployment_concurrency_lease_id"]
            self.put_state(run_id, wanted, state["name"], message=state.get("message"), **details)
            return self._said(run, "ACCEPT", None)
        if wanted == "PENDING" and now["type"] in {"PENDING", "RUNNING", "CANCELLING", "CANCELLED", "COMPLETED"}:
            return self._said(run, "ABORT", f"This run is in a {now['type']} state")
        if now["type"] in TERMINAL and wanted not in {"PENDING", "SCHEDULED", "CANCELLED"}:
            return self._said(run, "ABORT", "This run has already terminated.")
        if now["type"] == "CANCELLING" and wanted != "CANCELLED":
            return self._said(run, "REJECT", "This run is cancelling.")
        if wanted == "PENDING" and not self._take_slot(run, details):
            at = (self.now() + timedelta(seconds=30)).isoformat()
            self.put_state(run_id, "SCHEDULED", "AwaitingConcurrencySlot", scheduled_time=at)
            return self._said(run, "REJECT", "Deployment concurrency limit reached.")
        put = self.put_state(run_id, wanted, state.get("name"), message=state.get("message"), **details)
        put["data"] = state.get("data")
        return self._said(run, "ACCEPT", None)

    def _take_slot(self, run: Json, details: Json) -> bool:
        limit = self.deployments.get(run["deployment_id"], {}).get("concurrency_limit")
        if limit is None:
            return True
        siblings = {one["id"] for one in self.runs.values() if one["deployment_id"] == run["deployment_id"]}
        if sum(holder in siblings for holder in self.leases.values()) >= limit:
            return False
        lease = str(uuid.uuid4())
        self.leases[lease] = run["id"]
        details["deployment_concurrency_lease_id"] = lease
        return True

    def _said(self, run: Json, status: str, reason: str | None) -> tuple[int, Json]:
        code = 201 if status == "ACCEPT" else 200
        return code, {"state": run["state"], "status": status, "details": {"reason": reason}}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _in_state(run: Json, wanted: Json) -> bool:
    """Whether the run's state is as a filter says: all of it, or with `or_` any."""
    kinds = ("type", "name")
    found = [run["state"][what] in wanted[what]["any_"] for what in kinds if wanted.get(what, {}).get("any_")]
    unlike = [
        run["state"][what] not in wanted[what]["not_any_"] for what in kinds if "not_any_" in wanted.get(what, {})
    ]
    return any(found) if wanted.get("operator") == "or_" else all(found + unlike)
