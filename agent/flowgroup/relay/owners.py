"""
Whose is it? Asked of the API when the relay does not know: after its restart, or of something made elsewhere.
"""

from collections.abc import Iterable
from typing import Any

import httpx

from flowgroup.errors import Transient
from flowgroup.relay.named import Malformed
from flowgroup.relay.strict import NOTHING, Granted, why_foreign
from flowgroup.relay.tokens import Attempts, Kind, Named, OpenAttempt
from flowgroup.relay.upstream import Upstream, object_in

# A flow run, its parent task, that task's flow run, and so on: how many flow runs deep.
_DEEPEST = 8
_MOST_NAMED = 50
_OF_THE_RUN = {
    Kind.DEPLOYMENT: "deployment_id",
    Kind.WORK_POOL: "work_pool_name",
    Kind.WORK_QUEUE: "work_queue_id",
}
_OK = 200
_NOT_FOUND = 404


class Owners:
    """
    Looks up at the API to whom things belong, and remembers what turned out to belong to the attempt that
    asks.
    """

    def __init__(self, attempts: Attempts, upstream: Upstream, *, hold_s: float, granted: Granted = NOTHING) -> None:
        """`granted` is what the settings name for all runs (the profile `strict`)."""
        self._attempts = attempts
        self._upstream = upstream
        self._hold_s = hold_s
        self._granted = granted

    def granted(self, one: Named) -> bool:
        """Whether the settings name this for all runs."""
        return self._granted.covers(one)

    def covers(self, attempt: OpenAttempt, one: Named) -> bool:
        """Whether the attempt may name this, as far as that is known without asking."""
        return attempt.belongings.cover(one) or self._granted.covers(one)

    async def why_not(self, attempt: OpenAttempt, names: Iterable[Named]) -> str | None:
        """Why a record that names these may not pass; None if it may. Raises Transient."""
        try:
            unknown = tuple({one: None for one in names if not attempt.belongings.cover(one)})
        except Malformed as exc:
            return str(exc)
        foreign = await self.first_foreign(attempt, unknown) if unknown else None
        return why_foreign(foreign) if foreign else None

    async def first_foreign(self, attempt: OpenAttempt, named: tuple[Named, ...]) -> Named | None:
        """
        The first of these that does not belong to the attempt's run; None when all do. Raises Transient.

        Task runs that may be new and that no open attempt has are claimed for this one, and not looked up: a
        call for each first event of a task would slow a large map down.
        """
        claimed = [one for one in named if one.may_be_new]
        asked = [one for one in named if not one.may_be_new]
        for one in claimed:
            if self._attempts.is_anothers(attempt, one.id):
                return one
        for count, one in enumerate(asked):
            if count >= _MOST_NAMED or not await self._is_own(attempt, one):
                return one
        for one in claimed:
            attempt.belongings.claim(one.id)
        return None

    async def _is_own(self, attempt: OpenAttempt, one: Named) -> bool:
        if one.kind in _OF_THE_RUN:
            await self._learn_row(attempt)
            return attempt.belongings.has(one.kind, one.id) or await self._is_granted(attempt, one)
        run = await self._flow_run_of(one)
        for _ in range(_DEEPEST):
            if run is None:
                return False
            if attempt.belongings.has(Kind.FLOW_RUN, run):
                attempt.belongings.add(one.kind, one.id)
                return True
            run = await self._parent_of(run)
        return False

    async def _flow_run_of(self, one: Named) -> str | None:
        """The flow run that a thing belongs to."""
        match one.kind:
            case Kind.FLOW_RUN:
                return one.id
            case Kind.TASK_RUN:
                return await self._field(f"/task_runs/{one.id}", "flow_run_id")
            case Kind.ARTIFACT:
                return await self._field(f"/artifacts/{one.id}", "flow_run_id")
            case _:
                return None

    async def _learn_row(self, attempt: OpenAttempt) -> None:
        """What the attempt's own run says that it is of belongs to it: its deployment, its pool and queue."""
        row = await self._row(f"/flow_runs/{attempt.run_id}")
        for kind, name in _OF_THE_RUN.items():
            if isinstance(value := row.get(name), str):
                attempt.belongings.add(kind, value)

    async def _is_granted(self, attempt: OpenAttempt, one: Named) -> bool:
        """A deployment's id: whether the settings name it as `flow/deployment`."""
        if one.kind is not Kind.DEPLOYMENT or not self._granted.deployments or "/" in one.id:
            return False
        deployment = await self._row(f"/deployments/{one.id}")
        flow = await self._field(f"/flows/{deployment.get('flow_id')}", "name") if deployment else None
        is_granted = self._granted.covers(Named(Kind.DEPLOYMENT, f"{flow}/{deployment.get('name')}"))
        if is_granted:
            attempt.belongings.add(one.kind, one.id)
        return is_granted

    async def _parent_of(self, flow_run: str) -> str | None:
        """The flow run whose task started this one."""
        task = await self._field(f"/flow_runs/{flow_run}", "parent_task_run_id")
        return await self._field(f"/task_runs/{task}", "flow_run_id") if task else None

    async def _field(self, path: str, name: str) -> str | None:
        value = (await self._row(path)).get(name)
        return value if isinstance(value, str) else None

    async def _row(self, path: str) -> dict[str, Any]:
        """What the API has there; {} if nothing."""
        request = self._upstream.request(
            "GET", path, query=b"", headers=[(b"accept", b"application/json")], body=b"", hold_s=self._hold_s
        )
        response, small = await self._upstream.exchange(request, hold_s=self._hold_s)
        if response.status_code == _NOT_FOUND:
            await response.aclose()
            return {}
        if response.status_code != _OK:
            await response.aclose()
            raise Transient(f"the API answered {response.status_code} when asked whose it is")
        return object_in(small if small is not None else await _rest(response))


async def _rest(response: httpx.Response) -> bytes:
    try:
        return await response.aread()
    except httpx.HTTPError as exc:
        raise Transient(f"the answer broke off: {type(exc).__name__}") from exc
