"""
Prefect's API, as the daemon needs it. Answers become our types here, and troubles our errors.

Nothing here tries again: a call raises Transient, and whoever owns the loop does it once more. The one exception is a
claim whose answer was lost, which is read back.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx

from flowgroup import log
from flowgroup.edge.fence import Fence
from flowgroup.edge.pace import Pace
from flowgroup.edge.pools import Pool, completed
from flowgroup.edge.remembered import Remembered
from flowgroup.edge.shapes import (
    BlockAnswer,
    FlowRun,
    PoolAnswer,
    ScheduledRun,
    SetStateAnswer,
    State,
    VariableAnswer,
    many,
    one,
)
from flowgroup.edge.wire import Conflict, NotFound, Wire, connected
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.ids import AttemptId, RunId
from flowgroup.model.lines import ERROR, INFO, WARNING, line
from flowgroup.model.runs import ClaimedRun, DueRun, Ended, NotClaimed
from flowgroup.model.states import AWAITING_INFRASTRUCTURE, TERMINAL, RunState, Saying, SeenRun, StateType, Stops
from flowgroup.model.variables import POOL_TYPE, base_job_template
from flowgroup.settings import PrefectSettings

PAGE = 200  # the most that the API gives at once
LEASE_S = 300
_REFUSED_DELAY_S = 10.0
_STATES_AT_ONCE = 16
_SAYABLE_CHARS = 10_000
_LEVELS = {"info": INFO, "warning": WARNING, "error": ERROR}


@dataclass(frozen=True, slots=True)
class Standing:
    """The state that stands after we proposed one, and whether it is ours."""

    accepted: bool
    state: RunState | None


class Prefect(Remembered):
    """One Prefect API, seen from one work pool."""

    def __init__(self, wire: Wire, pool: str) -> None:
        super().__init__(wire, pool)
        self._states = Pace(_STATES_AT_ONCE)

    # The pool and the worker

    async def ensure_pool(self) -> Pool:
        """
        The pool, made when it is not there. A template that lacks some of our variables is given those, and keeps all else.

        Raises Refused when a pool of another type has the name.
        """
        try:
            body = {"name": self.pool, "type": POOL_TYPE, "base_job_template": base_job_template()}
            answer = await self._wire.call("POST", "/work_pools/", body)
        except Conflict:
            answer = await self._wire.call("GET", self._pool_path, route="/work_pools/{name}")
        pool = one(PoolAnswer, answer, f"the work pool {self.pool!r}")
        if pool.type != POOL_TYPE:
            raise Refused(
                f"the work pool {self.pool!r} is of type {pool.type!r}, and this agent serves pools of type {POOL_TYPE!r}: "
                "choose another --pool, or delete that one"
            )
        return await self._completed(Pool(pool.id, pool.name, pool.base_job_template))

    async def heartbeat(self, worker: str, interval_s: float) -> None:
        body = {"name": worker, "heartbeat_interval_seconds": max(1, round(interval_s))}
        route = "/work_pools/{name}/workers/heartbeat"
        await self._wire.call("POST", f"{self._pool_path}/workers/heartbeat", body, route=route)

    async def remove_worker(self, worker: str) -> None:
        route = "/work_pools/{name}/workers/{worker}"
        await self._wire.call("DELETE", f"{self._pool_path}/workers/{quote(worker, safe='')}", route=route)

    # Runs

    async def due(
        self, *, limit: int, before: datetime, after: datetime | None = None, queues: Sequence[str] = ()
    ) -> list[DueRun]:
        """Runs scheduled before a moment, as the API orders them: by the queue's priority, then by time."""
        body: dict[str, Any] = {"scheduled_before": before.isoformat(), "limit": min(limit, PAGE)}
        if after:
            body["scheduled_after"] = after.isoformat()
        if queues:
            body["work_queue_names"] = list(queues)
        route = "/work_pools/{name}/get_scheduled_flow_runs"
        answer = await self._wire.call("POST", f"{self._pool_path}/get_scheduled_flow_runs", body, route=route)
        return [item.due() for item in many(ScheduledRun, answer, "scheduled runs")]

    async def claim(self, due: DueRun, attempt: AttemptId) -> ClaimedRun | NotClaimed:
        """
        Take the run for ourselves: Scheduled to Pending, with the attempt's id as the transition's.

        Doing it again with the same attempt is harmless. After a lost answer the run is read back.
        """
        state = {"type": "PENDING", "name": "Pending", "state_details": {"transition_id": attempt}}
        try:
            answer = await self._set_state(due.id, state)
        except NotFound:
            return NotClaimed("the run is not there any more", _REFUSED_DELAY_S)
        except Transient:
            now = await self.read(due.id)
            if now is None or now.state.attempt != attempt:
                raise
            log.get().info("claim_read_back", run=due.id, attempt=attempt)
            return ClaimedRun(due, attempt, now.state.lease)
        return _claim_of(due, attempt, answer)

    async def say(self, run_id: RunId, saying: Saying) -> Standing:
        """
        Propose a state, never by force.

        The server keeps a terminal state from becoming Crashed, but not from becoming Cancelled: read first.
        """
        state: dict[str, Any] = {
            "type": saying.type,
            "name": saying.name or saying.type.capitalize(),
            "message": sayable(saying.message),
        }
        if saying.data is not None:
            state["data"] = saying.data
        if saying.type == "SCHEDULED":
            moment = datetime.now(UTC) + timedelta(seconds=saying.after_s)
            state["state_details"] = {"scheduled_time": moment.isoformat()}
        answer = await self._set_state(run_id, state)
        return Standing(answer.status == "ACCEPT", answer.state.ours() if answer.state else None)

    async def say_waiting(self, run_id: RunId, name: str, message: str) -> bool:
        """
        Say in a Pending run's state what it waits for; False if the API refuses, for the run has gone on.

        Prefect takes Pending after Pending under another name only, and keeps the claim's concurrency lease with it. The
        claim's own name is "Pending": under another the run counts as claimed by whoever claimed it.
        """
        state = {"type": "PENDING", "name": name, "message": sayable(message)}
        return (await self._set_state(run_id, state)).status == "ACCEPT"

    async def _is_gone(self, run_id: RunId) -> bool:
        try:
            await self._wire.call("GET", f"/flow_runs/{run_id}", route="/flow_runs/{id}")
        except NotFound:
            return True
        return False

    async def read(self, run_id: RunId) -> SeenRun | None:
        """The run as it is now; None if it is not there (any more)."""
        try:
            answer = await self._wire.call("GET", f"/flow_runs/{run_id}", route="/flow_runs/{id}")
        except NotFound:
            return None
        return one(FlowRun, answer, f"the run {run_id}").seen()

    async def last_claim(self, run_id: RunId) -> AttemptId | None:
        """The attempt of the run's latest claim, ours or another agent's; None if it was never claimed by name."""
        claims = [state.ours().attempt for state in await self._history(run_id) if _is_claim(state)]
        return claims[-1] if claims else None

    async def end_of(self, run_id: RunId) -> Ended | None:
        """
        The final state that the run has had since it was claimed last, if any: also when another one stands over it.

        A claim that was carried out twice is one claim.
        """
        end: Ended | None = None
        claim = None
        for state in await self._history(run_id):
            if _is_claim(state) and state.state_details.transition_id != claim:
                end, claim = None, state.state_details.transition_id
            elif state.type in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
                end = Ended(state.type, state.name, state.message or "", state.data)
        return end

    async def lost_tries(self, run_id: RunId) -> list[str]:
        """
        What was said each time that the infrastructure failed and the run was to be tried again, oldest first.

        A run that has ended or was paused since, and goes on because somebody wants it to, begins anew.
        """
        said: list[str] = []
        for state in await self._history(run_id):
            if state.type in TERMINAL or state.type == "PAUSED":
                said = []
            elif state.type == "SCHEDULED" and state.name == AWAITING_INFRASTRUCTURE:
                said.append(state.message or "")
        return said

    async def runs_in(self, *types: StateType) -> list[SeenRun]:
        """Every run of the pool that is in one of these states."""
        return await self._filtered({"state": {"type": {"any_": list(types)}}}, pool=True)

    async def runs_named(self, *names: str) -> list[SeenRun]:
        """Every run of the pool whose state has one of these names."""
        return await self._filtered({"state": {"name": {"any_": list(names)}}}, pool=True)

    async def to_stop(self, runs: Sequence[RunId]) -> Stops:
        """Those of these runs that are not to go on. One cheap call while there are none."""
        states = {"type": {"not_any_": ["CANCELLING", "CANCELLED"]}, "name": {"not_any_": ["Suspended"]}}
        body = {"flow_runs": {"id": {"any_": list(runs)}, "state": states}}
        if await self._wire.call("POST", "/flow_runs/count", body) == len(runs):
            return Stops()
        seen = {run.id: run.state for run in await self._filtered({"id": {"any_": list(runs)}}, pool=False)}
        missing = [run for run in runs if run not in seen]
        gone = {run for run in missing if await self._is_gone(run)}  # an item that was left aside is not
        return Stops(
            cancel=frozenset(run for run, state in seen.items() if state.type == "CANCELLING"),
            suspend=frozenset(run for run, state in seen.items() if state.is_suspended),
            over=frozenset(gone | {run for run, state in seen.items() if state.type == "CANCELLED"}),
        )

    async def open_children(self, run_id: RunId) -> list[SeenRun]:
        """Sub-flow runs of this run which lived in its process (they have no deployment) and have not ended."""
        states = {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]}}
        seen = await self._filtered({"parent_flow_run_id": {"any_": [run_id]}, "state": states}, pool=False)
        return [run for run in seen if run.deployment_id is None]

    async def renew_lease(self, lease: str) -> None:
        """Keep a deployment's concurrency slot for some minutes more. Raises Gone when it is not ours any more."""
        route = "/v2/concurrency_limits/leases/{id}/renew"
        path = f"/v2/concurrency_limits/leases/{lease}/renew"
        await self._wire.call("POST", path, {"lease_duration": LEASE_S}, route=route)

    async def write_log(self, run_id: RunId, level: str, message: str) -> None:
        """A line in the run's own log."""
        await self._wire.call(
            "POST", "/logs/", [line(run_id, "flowgroup", _LEVELS[level], sayable(message), datetime.now(UTC))]
        )

    async def write_logs(self, lines: Mapping[RunId, str]) -> None:
        """A line in the own log of each of these runs, in one call."""
        now = datetime.now(UTC)
        told = [line(run_id, "flowgroup", INFO, sayable(text), now) for run_id, text in lines.items()]
        await self._wire.call("POST", "/logs/", told)

    async def write_lines(self, run_id: RunId, logger: str, lines: Sequence[str]) -> None:
        """Lines in the run's own log, in this order."""
        now = datetime.now(UTC)
        told = [
            line(run_id, logger, INFO, sayable(text), now + timedelta(microseconds=number))
            for number, text in enumerate(lines)
        ]
        await self._wire.call("POST", "/logs/", told)

    async def write_artifact(self, run_id: RunId, markdown: str, description: str) -> None:
        """An artifact of the run, without a key: it is none of a collection."""
        told = {"type": "markdown", "data": markdown, "description": description, "flow_run_id": run_id}
        await self._wire.call("POST", "/artifacts/", told)

    # What job variables refer to

    async def block(self, type_slug: str, name: str) -> dict[str, Any] | None:
        """A block's data with its secrets; None if there is none of that type and name."""
        route = "/block_types/slug/{slug}/block_documents/name/{name}"
        path = f"/block_types/slug/{quote(type_slug, safe='')}/block_documents/name/{quote(name, safe='')}"
        try:
            answer = await self._wire.call("GET", path, route=route, include_secrets="true")
        except NotFound:
            return None
        return one(BlockAnswer, answer, f"the block {type_slug}/{name}").data

    async def variable(self, name: str) -> tuple[Any] | None:
        """A variable's value, alone in a tuple: the value may be None. None if there is no such variable."""
        try:
            answer = await self._wire.call(
                "GET", f"/variables/name/{quote(name, safe='')}", route="/variables/name/{name}"
            )
        except NotFound:
            return None
        return (one(VariableAnswer, answer, f"the variable {name}").value,)

    # Inside

    async def _history(self, run_id: RunId) -> list[State]:
        """The run's states, oldest first."""
        answer = await self._wire.call("GET", "/flow_run_states/", flow_run_id=run_id)
        history = many(State, answer, f"the states of run {run_id}")
        return sorted(history, key=lambda state: _seconds(state.timestamp))

    async def _set_state(self, run_id: RunId, state: dict[str, Any]) -> SetStateAnswer:
        body = {"state": state, "force": False}
        route = "/flow_runs/{id}/set_state"
        async with self._states.turn():
            answer = await self._wire.call("POST", f"/flow_runs/{run_id}/set_state", body, route=route)
        return one(SetStateAnswer, answer, f"the state of run {run_id}")

    async def _filtered(self, runs: dict[str, Any], *, pool: bool) -> list[SeenRun]:
        body: dict[str, Any] = {"flow_runs": runs, "sort": "ID_DESC", "limit": PAGE}
        if pool:
            body["work_pools"] = {"name": {"any_": [self.pool]}}
        seen: list[SeenRun] = []
        for offset in range(0, 100 * PAGE, PAGE):
            answer = await self._wire.call("POST", "/flow_runs/filter", {**body, "offset": offset})
            seen += [run for item in many(FlowRun, answer, "runs") if (run := item.seen())]
            if len(answer) < PAGE:
                break
        return seen

    async def _completed(self, pool: Pool) -> Pool:
        template = completed(pool.template)
        if template == pool.template:
            return pool
        body = {"base_job_template": template}
        await self._wire.call("PATCH", self._pool_path, body, route="/work_pools/{name}")
        return Pool(pool.id, pool.name, template)


@asynccontextmanager
async def prefect(
    settings: PrefectSettings,
    pool: str,
    *,
    fence: Fence | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Prefect]:
    """
    The API that the settings name, seen from one pool; `fence` is asked before each call. Raises Refused when the settings
    are not usable.
    """
    if not pool or "/" in pool or "%" in pool:
        raise Refused(f"{pool!r} is not a name of a work pool (--pool, FLOWGROUP_POOL): it is empty or has / or %")
    async with connected(settings, fence=fence, transport=transport) as wire:
        yield Prefect(wire, pool)


def sayable(text: str) -> str:
    """Text that every server can store: no NUL, which Postgres refuses, no lone surrogate, and not without end."""
    clean = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return clean if len(clean) <= _SAYABLE_CHARS else clean[: _SAYABLE_CHARS - 1] + "…"


def _is_claim(state: State) -> bool:
    return state.type == "PENDING" and state.name == "Pending"


def _claim_of(due: DueRun, attempt: AttemptId, answer: SetStateAnswer) -> ClaimedRun | NotClaimed:
    state = answer.state.ours() if answer.state else None
    if state and state.attempt == attempt and state.type == "PENDING":
        return ClaimedRun(due, attempt, state.lease, answer.told)
    if answer.status == "ACCEPT":
        raise Permanent(f"the API accepted the claim of run {due.id}, but shows another state: {state}")
    if answer.status == "WAIT" and answer.details.delay_seconds is not None:
        return NotClaimed(answer.details.reason or "too early", min(answer.details.delay_seconds, 300.0))
    reason = answer.details.reason or f"{answer.status}, {state and state.name}"
    return NotClaimed(
        reason, _put_off_s(answer.state), is_limit=bool(state and state.name == "AwaitingConcurrencySlot")
    )


def _put_off_s(state: State | None) -> float:
    """For how long the API has put the run off, by its own clock."""
    at = state.state_details.scheduled_time if state and state.type == "SCHEDULED" else None
    if (
        state is None
        or at is None
        or state.timestamp is None
        or (at.tzinfo is None) != (state.timestamp.tzinfo is None)
    ):
        return _REFUSED_DELAY_S
    return max(_REFUSED_DELAY_S, (at - state.timestamp).total_seconds())


def _seconds(at: datetime | None) -> float:
    """Since 1970; 0 for a moment that is none."""
    try:
        return at.timestamp() if at else 0.0
    except (ValueError, OverflowError):  # of the year 1, and so of the year 0 in another zone
        return 0.0
