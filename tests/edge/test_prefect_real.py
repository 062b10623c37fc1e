"""The edge against a real Prefect server: what the fake claims, the server does."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from flowgroup.daemon.known import Knowledge
from flowgroup.edge.events import Events, Notice
from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.edge.wire import Gone, NotFound
from flowgroup.errors import Permanent, Refused
from flowgroup.model.ids import AttemptId, DeploymentId, RunId, new_attempt
from flowgroup.model.runs import ClaimedRun, DueRun, NotClaimed
from flowgroup.model.states import Saying, Stops
from flowgroup.model.variables import base_job_template
from flowgroup.retry import until
from flowgroup.settings import PrefectSettings
from tests.model.test_bad_variables import WRONG
from tests.model.test_pod import GOOD

pytestmark = pytest.mark.real
T = TypeVar("T")


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """The server answers 503 whenever SQLite is locked."""
    return await until(call, timeout_s=30)


@dataclass
class Server:
    """The client under test, and what an author and a user do."""

    api: Prefect
    settings: PrefectSettings

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        return await again(lambda: self.api._wire.call(method, path, body))

    async def deployment(self, **fields: Any) -> str:
        flow = await self.call("POST", "/flows/", {"name": f"etl {uuid.uuid4()}"})
        body = {"name": "dev", "flow_id": flow["id"], "work_pool_name": self.api.pool, "entrypoint": "a.py:etl"}
        return str((await self.call("POST", "/deployments/", {**body, "version": "v1", **fields}))["id"])

    async def run(self, deployment: str, **fields: Any) -> RunId:
        body = {"state": {"type": "SCHEDULED"}, **fields}
        made = await self.call("POST", f"/deployments/{deployment}/create_flow_run", body)
        return RunId(made["id"])

    async def put(self, run: str, type_: str, name: str | None = None, force: bool = False, **details: Any) -> str:
        state = {"type": type_, "name": name or type_.capitalize(), "state_details": details}
        body = {"state": state, "force": force}
        return str((await self.call("POST", f"/flow_runs/{run}/set_state", body))["status"])

    async def due(self) -> list[DueRun]:
        return await again(lambda: self.api.due(limit=200, before=datetime.now(UTC) + timedelta(seconds=10)))

    async def claimed(self, run: str) -> ClaimedRun:
        due = next(one for one in await self.due() if one.id == run)
        claimed = await again(lambda: self.api.claim(due, attempt()))
        assert isinstance(claimed, ClaimedRun)
        return claimed

    async def state(self, run: RunId) -> str:
        seen = await again(lambda: self.api.read(run))
        assert seen is not None
        return seen.state.type

    async def say(self, run: RunId, saying: Saying) -> bool:
        return (await again(lambda: self.api.say(run, saying))).accepted


def attempt() -> AttemptId:
    return new_attempt("owner", uuid.uuid4())


@pytest.fixture
async def server(prefect_api: str) -> AsyncIterator[Server]:
    settings = PrefectSettings(api_url=prefect_api)
    async with prefect(settings, f"pool-{uuid.uuid4()}") as api:
        await again(api.ensure_pool)
        yield Server(api, settings)


async def test_the_pool_takes_our_template_and_its_completion(server: Server) -> None:
    assert (await again(server.api.ensure_pool)).template == await again(server.api.template)
    lacking = base_job_template()
    del lacking["variables"]["properties"]["bundle"]
    del lacking["job_configuration"]["bundle"]
    lacking["variables"]["properties"]["workers"]["default"] = 3
    await server.call("PATCH", f"/work_pools/{server.api.pool}", {"base_job_template": lacking})
    pool = await again(server.api.ensure_pool)
    server.api.forget_cached()
    assert await again(server.api.template) == pool.template
    assert "bundle" in pool.template["variables"]["properties"]
    assert pool.template["variables"]["properties"]["workers"]["default"] == 3


async def test_a_pool_of_another_type_is_refused(server: Server) -> None:
    name = f"other-{uuid.uuid4()}"
    await server.call("POST", "/work_pools/", {"name": name, "type": "process"})
    async with prefect(server.settings, name) as other:
        with pytest.raises(Refused, match="'process'"):
            await again(other.ensure_pool)


async def test_the_worker_comes_and_goes(server: Server) -> None:
    await again(lambda: server.api.heartbeat("flowgroup here", 30))
    path = f"/work_pools/{server.api.pool}/workers/filter"
    (worker,) = await server.call("POST", path, {})
    assert (worker["name"], worker["status"]) == ("flowgroup here", "ONLINE")
    await again(lambda: server.api.remove_worker("flowgroup here"))
    assert await server.call("POST", path, {}) == []


async def test_a_run_is_due_claimed_once_and_told(server: Server) -> None:
    deployment = await server.deployment(job_variables={"workers": 2})
    run = await server.run(deployment, name="nightly", job_variables={"workers": 3}, tags=["a"])
    (due,) = await server.due()
    assert (due.id, due.name, due.deployment_id, due.job_variables) == (run, "nightly", deployment, {"workers": 3})
    assert due.deployment_version == "v1"
    read = await again(lambda: server.api.deployment(DeploymentId(deployment), due.deployment_version))
    assert (read.name, read.job_variables, read.entrypoint) == ("dev", {"workers": 2}, "a.py:etl")
    assert read.flow_name.startswith("etl ")
    ours = attempt()
    assert isinstance(await again(lambda: server.api.claim(due, ours)), ClaimedRun)
    assert isinstance(await again(lambda: server.api.claim(due, ours)), ClaimedRun)
    assert isinstance(await again(lambda: server.api.claim(due, attempt())), NotClaimed)
    await server.put(run, "PENDING", "InfrastructurePending", transition_id=str(uuid.uuid4()))
    await server.put(run, "RUNNING")
    assert await again(lambda: server.api.last_claim(run)) == ours
    assert run in [one.id for one in await again(lambda: server.api.runs_in("RUNNING"))]
    assert await server.say(run, Saying("CRASHED", "killed \x00 by us"))
    assert not await server.say(run, Saying("CRASHED", "too late"))
    assert await server.state(run) == "CRASHED"


@pytest.mark.parametrize(
    ("ended", "said", "is_taken"),
    [
        ("COMPLETED", "CRASHED", False),
        ("FAILED", "CRASHED", False),
        ("CANCELLED", "CRASHED", False),
        # The server does not keep these from happening: `to_say` does, after reading the run.
        ("COMPLETED", "CANCELLED", True),
        ("CRASHED", "CANCELLED", True),
    ],
)
async def test_how_far_the_server_itself_keeps_terminal_states(
    server: Server, ended: str, said: Any, is_taken: bool
) -> None:
    run = await server.run(await server.deployment())
    await server.claimed(run)
    await server.put(run, "RUNNING")
    await server.put(run, ended)
    assert await server.say(run, Saying(said, "x")) is is_taken


@pytest.mark.parametrize("count", [8])
async def test_of_claims_at_the_same_time_one_is_accepted(server: Server, count: int) -> None:
    await server.run(await server.deployment())
    (due,) = await server.due()

    async def claim() -> ClaimedRun | NotClaimed:
        mine = attempt()
        return await again(lambda: server.api.claim(due, mine))

    answers = await asyncio.gather(*(claim() for _ in range(count)))
    assert sum(isinstance(answer, ClaimedRun) for answer in answers) == 1


async def test_a_deployments_limit_gives_a_lease_and_makes_others_wait(server: Server) -> None:
    deployment = await server.deployment(concurrency_limit=1)
    first, second = await server.run(deployment), await server.run(deployment)
    claimed = await server.claimed(first)
    assert claimed.lease is not None
    await again(lambda: server.api.renew_lease(str(claimed.lease)))
    due = next(one for one in await server.due() if one.id == second)
    refused = await again(lambda: server.api.claim(due, attempt()))
    assert isinstance(refused, NotClaimed)
    assert await server.say(first, Saying("SCHEDULED", "given back", 0.0))
    with pytest.raises(Gone):
        await again(lambda: server.api.renew_lease(str(claimed.lease)))
    assert await server.claimed(first)


@pytest.mark.parametrize("then", ["SCHEDULED", "CRASHED", "CANCELLED"])
async def test_a_claimed_run_can_be_given_back_or_ended(server: Server, then: Any) -> None:
    run = await server.run(await server.deployment())
    await server.claimed(run)
    assert await server.say(run, Saying(then, "because", 0.0))
    assert await server.state(run) == then
    if then == "SCHEDULED":
        assert await server.claimed(run)


async def test_a_cancelling_run_becomes_cancelled_and_nothing_else(server: Server) -> None:
    run = await server.run(await server.deployment())
    await server.claimed(run)
    await server.put(run, "RUNNING")
    assert await server.put(run, "CANCELLING") == "ACCEPT"
    assert not await server.say(run, Saying("CRASHED", "x"))
    assert await server.state(run) == "CANCELLING"
    assert await server.say(run, Saying("CANCELLED", "x"))


@pytest.mark.parametrize(
    ("type_", "name", "details"),
    [
        ("PAUSED", "Paused", {"pause_timeout": "2099-01-01T00:00:00Z", "pause_key": "1"}),
        ("SCHEDULED", "AwaitingRetry", {}),
    ],
)
async def test_a_run_that_slept_in_a_process_that_died_can_be_told(
    server: Server, type_: str, name: str, details: dict[str, Any]
) -> None:
    run = await server.run(await server.deployment())
    await server.claimed(run)
    await server.put(run, "RUNNING")
    await server.call("PATCH", f"/flow_runs/{run}", {"empirical_policy": {"retries": 1, "retry_delay": 60}})
    await server.put(
        run, "FAILED" if type_ == "SCHEDULED" else type_, None if type_ == "SCHEDULED" else name, **details
    )
    seen = await again(lambda: server.api.read(run))
    assert seen is not None
    assert (seen.state.type, seen.state.name) == (type_, name)
    assert seen.waits_in_process is (type_ == "SCHEDULED")
    if type_ == "SCHEDULED":
        assert run in [one.id for one in await again(lambda: server.api.runs_named("AwaitingRetry"))]
        assert run not in [one.id for one in await server.due()]
    assert await server.say(run, Saying("CRASHED", "killed"))


async def test_a_suspended_run_is_known_as_one(server: Server) -> None:
    run = await server.run(await server.deployment())
    await server.claimed(run)
    await server.put(run, "RUNNING")
    timeout = "2099-01-01T00:00:00Z"
    await server.put(run, "PAUSED", "Suspended", pause_reschedule=True, pause_timeout=timeout, pause_key="1")
    seen = await again(lambda: server.api.read(run))
    assert seen is not None
    assert seen.state.reschedules


async def test_children_that_lived_in_the_process_are_found(server: Server) -> None:
    deployment = await server.deployment()
    parent = await server.run(deployment)
    task = await server.call("POST", "/task_runs/", {"flow_run_id": parent, "task_key": "t", "dynamic_key": "0"})
    flow = await server.call("POST", "/flows/", {"name": "child"})
    body = {"flow_id": flow["id"], "parent_task_run_id": task["id"], "state": {"type": "RUNNING"}}
    child = await server.call("POST", "/flow_runs/", body)
    await server.run(deployment, parent_task_run_id=task["id"])
    assert [one.id for one in await again(lambda: server.api.open_children(parent))] == [child["id"]]
    assert await server.say(RunId(child["id"]), Saying("CRASHED", "its process ended"))
    assert await again(lambda: server.api.open_children(parent)) == []


async def test_what_is_not_there_is_said(server: Server) -> None:
    nobody = str(uuid.uuid4())
    assert await again(lambda: server.api.read(RunId(nobody))) is None
    assert await again(lambda: server.api.last_claim(RunId(nobody))) is None
    with pytest.raises(NotFound):
        await again(lambda: server.api.deployment(DeploymentId(nobody)))


async def test_a_line_arrives_in_the_runs_log(server: Server) -> None:
    run = await server.run(await server.deployment())
    await again(lambda: server.api.write_log(run, "warning", "given back: no room"))
    body = {"logs": {"flow_run_id": {"any_": [run]}}}
    (line,) = await server.call("POST", "/logs/filter", body)
    assert (line["message"], line["level"]) == ("given back: no room", 30)


async def test_who_is_to_stop_is_found_among_those_under_way(server: Server) -> None:
    deployment = await server.deployment()
    cancelling, suspended, paused, running, over, gone, elsewhere = [await server.run(deployment) for _ in range(7)]
    for run in (cancelling, suspended, paused, running, over, gone, elsewhere):
        await server.claimed(run)
        await server.put(run, "RUNNING")
    assert await again(lambda: server.api.to_stop([paused, running])) == Stops()
    await server.put(cancelling, "CANCELLING")
    await server.put(elsewhere, "CANCELLING")
    await server.put(suspended, "PAUSED", "Suspended", pause_reschedule=True)
    await server.put(paused, "PAUSED", "Paused")
    await server.put(over, "CANCELLED")
    await server.call("DELETE", f"/flow_runs/{gone}", None)
    found = await again(lambda: server.api.to_stop([cancelling, suspended, paused, running, over, gone]))
    assert found == Stops(frozenset({cancelling}), frozenset({suspended}), frozenset({over, gone}))


async def test_the_event_stream_tells_of_new_and_cancelled_and_suspended_runs_at_once(server: Server) -> None:
    pool = await again(server.api.ensure_pool)
    got: asyncio.Queue[Notice] = asyncio.Queue()

    async def listen() -> None:
        async for notice in Events(server.settings, pool.id).notices():
            got.put_nowait(notice)

    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(20):
            assert await got.get() == Notice("connected")
            run = await server.run(await server.deployment())
            while await got.get() != Notice("due", run):
                pass
            await server.claimed(run)
            await server.put(run, "CANCELLING")
            while await got.get() != Notice("cancelling", run):
                pass
            other = await server.run(await server.deployment())
            await server.claimed(other)
            assert await server.put(other, "RUNNING") == "ACCEPT"
            assert await server.put(other, "PAUSED", "Suspended", pause_reschedule=True) == "ACCEPT"
            while await got.get() != Notice("suspended", other):
                pass
            await server.call("PATCH", f"/work_pools/{server.api.pool}", {"description": "new"})
            while await got.get() != Notice("changed"):
                pass
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_the_event_stream_tells_of_every_change_of_what_is_remembered(server: Server) -> None:
    """By upsert as `deploy` does it, by PATCH as the UI does it, and of the pool. Else nothing may be kept for minutes."""
    pool = await again(server.api.ensure_pool)
    deployment = await server.deployment()
    flow_id = (await server.call("GET", f"/deployments/{deployment}"))["flow_id"]
    upsert = {"name": "dev", "flow_id": flow_id, "work_pool_name": server.api.pool, "entrypoint": "a.py:etl"}
    template = {**base_job_template(), "variables": {**base_job_template()["variables"], "description": "other"}}
    got: asyncio.Queue[Notice] = asyncio.Queue()

    async def listen() -> None:
        async for notice in Events(server.settings, pool.id).notices():
            got.put_nowait(notice)

    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(60):
            assert await got.get() == Notice("connected")
            for method, path, body in (
                ("POST", "/deployments/", {**upsert, "version": "v2"}),
                ("POST", "/deployments/", {**upsert, "version": "v2", "job_variables": {"workers": 1}}),
                ("POST", "/deployments/", {**upsert, "version": "v2", "tags": ["t"]}),
                ("PATCH", f"/deployments/{deployment}", {"job_variables": {"workers": 2}}),
                ("PATCH", f"/deployments/{deployment}", {"entrypoint": "b.py:etl"}),
                ("PATCH", f"/deployments/{deployment}", {"pull_steps": [{"a.b": {"c": "d"}}]}),
                ("PATCH", f"/work_pools/{server.api.pool}", {"base_job_template": template}),
            ):
                await server.call(method, path, body)
                async with asyncio.timeout(10):
                    assert await got.get() == Notice("changed"), (method, path, body)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_what_the_daemon_knows_is_what_the_child_would_read(server: Server) -> None:
    """The run as `GET /flow_runs/{id}` has it, and what Prefect's own engine finds related to it."""
    run_id = await server.run(await server.deployment(tags=["of deployment"]), tags=["of run"], parameters={"x": 1})
    run = await server.claimed(run_id)
    assert run.due.deployment_id
    deployment = await again(lambda: server.api.deployment(DeploymentId(run.due.deployment_id or "")))
    known = await Knowledge(server.api).of(run, deployment)
    assert known.flow_run is not None
    read = await server.call("GET", f"/flow_runs/{run_id}")
    moves = {"updated", "estimated_run_time", "estimated_start_time_delta", "total_run_time"}
    assert {n: v for n, v in known.flow_run.items() if n not in moves and n in read} == {
        n: v for n, v in read.items() if n not in moves and n in known.flow_run
    }
    assert read.keys() - known.flow_run.keys() == set()
    assert known.is_default_result_storage_known
    assert known.related == await _related_as_prefect_finds_it(server.settings.api_url or "", known.flow_run)


async def _related_as_prefect_finds_it(url: str, flow_run: dict[str, Any]) -> list[dict[str, Any]]:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.context import FlowRunContext
    from prefect.events.related import related_resources_from_run_context

    async with PrefectClient(url) as client:
        with FlowRunContext.model_construct(flow_run=FlowRun.model_validate(flow_run)):
            found = await related_resources_from_run_context(client)
    return [one.model_dump() for one in found if one.role != "flow-run"]


@pytest.mark.parametrize("level", ["deployment", "run"])
async def test_the_server_refuses_wrong_job_variables_by_the_pools_schema_and_names_the_field(
    server: Server, level: str
) -> None:
    plain = await server.deployment()
    for name, values in WRONG.items():
        said = {"job_variables": {name: values[0]}}
        with pytest.raises(Permanent, match="422") as refused:
            await (server.deployment(**said) if level == "deployment" else server.run(plain, **said))
        assert f"'{name}'" in str(refused.value) or name in str(refused.value), (name, str(refused.value))
    right = {"env": {"A": "{{ prefect.blocks.secret.x }}"}, **GOOD}
    await server.run(await server.deployment(job_variables=right), job_variables=right)


async def test_blocks_and_variables_are_read_with_their_secrets(server: Server) -> None:
    name = f"word-{uuid.uuid4().hex[:8]}"
    kind = (await server.call("GET", "/block_types/slug/secret"))["id"]
    (schema, *_) = await server.call(
        "POST", "/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}}
    )
    body = {"name": name, "data": {"value": "hush"}, "block_type_id": kind, "block_schema_id": schema["id"]}
    await server.call("POST", "/block_documents/", body)
    assert await again(lambda: server.api.block("secret", name)) == {"value": "hush"}
    assert await again(lambda: server.api.block("secret", f"{name}-none")) is None
    assert await again(lambda: server.api.block("no-such-type", name)) is None
    await server.call("POST", "/variables/", {"name": name.replace("-", "_"), "value": {"a": [1]}})
    assert await again(lambda: server.api.variable(name.replace("-", "_"))) == ({"a": [1]},)
    assert await again(lambda: server.api.variable("there_is_none")) is None
