"""The edge to Prefect's API, over a fake that behaves as the real one was seen to."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flowgroup.edge.pools import completed
from flowgroup.edge.prefect import Prefect, prefect, sayable
from flowgroup.edge.wire import Gone, NotFound, Unauthorized
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.ids import AttemptId, DeploymentId, RunId, new_attempt
from flowgroup.model.runs import ClaimedRun, DueRun, NotClaimed
from flowgroup.model.states import Saying
from flowgroup.model.variables import base_job_template
from flowgroup.settings import PrefectSettings
from tests.fakes.prefect_api import FakePrefect


async def due(api: Prefect, ahead_s: float = 10.0) -> list[DueRun]:
    return await api.due(limit=100, before=datetime.now(UTC) + timedelta(seconds=ahead_s))


def attempt() -> AttemptId:
    return new_attempt("owner", uuid.uuid4())


async def test_the_pool_is_made_with_our_template(api: Prefect, fake: FakePrefect) -> None:
    assert fake.pools["pool"]["type"] == "dask"
    assert fake.pools["pool"]["base_job_template"] == base_job_template()
    assert await api.ensure_pool()
    assert fake.count("PATCH") == 0


async def test_a_pool_of_another_type_is_refused_by_name(api: Prefect, fake: FakePrefect) -> None:
    fake.pools["pool"]["type"] = "process"
    with pytest.raises(Refused, match="'pool' is of type 'process'"):
        await api.ensure_pool()


async def test_a_template_that_lacks_variables_is_completed_and_keeps_the_operators_own(
    api: Prefect, fake: FakePrefect
) -> None:
    template = base_job_template()
    del template["variables"]["properties"]["bundle"]
    template["variables"]["properties"]["workers"]["default"] = 7
    template["job_configuration"]["allow_unsigned"] = True
    fake.pools["pool"]["base_job_template"] = template
    pool = await api.ensure_pool()
    patched = fake.pools["pool"]["base_job_template"]
    assert patched == pool.template
    assert "bundle" in patched["variables"]["properties"]
    assert patched["variables"]["properties"]["workers"]["default"] == 7
    assert patched["job_configuration"]["allow_unsigned"] is True
    assert completed({}) == base_job_template()


async def test_a_due_run_has_all_that_the_journey_needs(api: Prefect, fake: FakePrefect) -> None:
    deployment = fake.add_deployment()
    run = fake.add_run(deployment, name="nightly", job_variables={"workers": 2}, tags=["a"])
    (seen,) = await due(api)
    assert (seen.id, seen.name, seen.deployment_id, seen.tags) == (run, "nightly", deployment, ("a",))
    assert seen.job_variables == {"workers": 2}
    assert seen.due_at.tzinfo is not None


async def test_one_misshapen_run_does_not_hide_the_others(api: Prefect, fake: FakePrefect) -> None:
    run = fake.add_run(fake.add_deployment())
    fake.junk = [
        None,
        7,
        {},
        {"flow_run": None},
        {"flow_run": {"id": 3}},
        {"flow_run": {"id": "x", "flow_id": "y"}},
        {"flow_run": {"id": "x", "flow_id": "y", "expected_start_time": "2026-01-01T00:00:00"}},
    ]
    assert [seen.id for seen in await due(api)] == [run]


async def test_a_claim_gives_the_run_and_its_lease(api: Prefect, fake: FakePrefect) -> None:
    fake.add_run(fake.add_deployment(concurrency_limit=1))
    (run,) = await due(api)
    name = attempt()
    claimed = await api.claim(run, name)
    assert isinstance(claimed, ClaimedRun)
    assert claimed.attempt == name
    assert claimed.lease in fake.leases
    assert fake.runs[run.id]["state"]["name"] == "Pending"
    await api.renew_lease(str(claimed.lease))
    assert fake.renewed == [claimed.lease]
    with pytest.raises(Gone):
        await api.renew_lease("no such lease")


async def test_a_claim_can_be_done_again_with_the_same_attempt(api: Prefect, fake: FakePrefect) -> None:
    fake.add_run(fake.add_deployment())
    (run,) = await due(api)
    name = attempt()
    assert isinstance(await api.claim(run, name), ClaimedRun)
    assert isinstance(await api.claim(run, name), ClaimedRun)
    assert isinstance(await api.claim(run, attempt()), NotClaimed)


async def test_a_claim_whose_answer_was_lost_is_read_back(api: Prefect, fake: FakePrefect) -> None:
    fake.add_run(fake.add_deployment(concurrency_limit=1))
    (run,) = await due(api)
    fake.fail("set_state", "lost")
    claimed = await api.claim(run, attempt())
    assert isinstance(claimed, ClaimedRun)
    assert claimed.lease in fake.leases


async def test_a_claim_that_never_arrived_is_transient(api: Prefect, fake: FakePrefect) -> None:
    fake.add_run(fake.add_deployment())
    (run,) = await due(api)
    fake.fail("set_state", 503)
    with pytest.raises(Transient):
        await api.claim(run, attempt())


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "CANCELLING", "CANCELLED", "COMPLETED"])
async def test_a_run_that_is_somebody_elses_or_over_is_not_claimed(api: Prefect, fake: FakePrefect, state: str) -> None:
    fake.add_run(fake.add_deployment())
    (run,) = await due(api)
    fake.put_state(run.id, state)
    assert isinstance(await api.claim(run, attempt()), NotClaimed)


async def test_a_run_over_its_deployments_limit_is_not_claimed(api: Prefect, fake: FakePrefect) -> None:
    deployment = fake.add_deployment(concurrency_limit=1)
    for _ in range(2):
        fake.add_run(deployment)
    one, two = await due(api)
    assert isinstance(await api.claim(one, attempt()), ClaimedRun)
    refused = await api.claim(two, attempt())
    assert isinstance(refused, NotClaimed)
    assert "concurrency limit" in refused.reason


async def test_a_deleted_run_is_not_claimed(api: Prefect, fake: FakePrefect) -> None:
    fake.add_run(fake.add_deployment())
    (run,) = await due(api)
    del fake.runs[run.id]
    assert isinstance(await api.claim(run, attempt()), NotClaimed)


async def test_a_state_is_never_said_over_a_terminal_one(api: Prefect, fake: FakePrefect) -> None:
    run = RunId(fake.add_run(fake.add_deployment()))
    fake.put_state(run, "COMPLETED")
    standing = await api.say(run, Saying("CRASHED", "late news"))
    assert not standing.accepted
    assert standing.state and standing.state.type == "COMPLETED"


async def test_the_last_claim_is_found_under_the_states_that_came_after(api: Prefect, fake: FakePrefect) -> None:
    run = RunId(fake.add_run(fake.add_deployment()))
    assert await api.last_claim(run) is None
    for name in ("a", "b"):
        fake.put_state(run, "PENDING", transition_id=name)
        fake.put_state(run, "PENDING", "InfrastructurePending", transition_id="other")
        fake.put_state(run, "RUNNING", transition_id="other")
    assert await api.last_claim(run) == "b"


async def test_runs_are_listed_page_by_page(api: Prefect, fake: FakePrefect) -> None:
    deployment = fake.add_deployment()
    for _ in range(401):
        fake.put_state(fake.add_run(deployment), "RUNNING")
    fake.put_state(fake.add_run(deployment, work_pool_name="other"), "RUNNING")
    assert len(await api.runs_in("RUNNING")) == 401


async def test_only_children_that_lived_in_the_process_are_open_children(api: Prefect, fake: FakePrefect) -> None:
    deployment = fake.add_deployment()
    parent = RunId(fake.add_run(deployment))
    child = fake.add_run(None, parent_flow_run_id=parent)
    ended = fake.add_run(None, parent_flow_run_id=parent)
    fake.add_run(deployment, parent_flow_run_id=parent)
    fake.put_state(child, "RUNNING")
    fake.put_state(ended, "COMPLETED")
    assert [run.id for run in await api.open_children(parent)] == [child]


@pytest.mark.looptime
async def test_a_deployment_is_read_once_and_anew_when_it_may_have_changed(api: Prefect, fake: FakePrefect) -> None:
    one = DeploymentId(fake.add_deployment())
    await asyncio.gather(*(api.deployment(one, "v1") for _ in range(20)))
    assert fake.count("GET /deployments") == 1
    fake.deployments[one]["version"] = "v2"
    assert (await api.deployment(one, "v2")).version == "v2"
    fake.deployments[one]["job_variables"] = {"workers": 3}
    await asyncio.sleep(6)
    assert (await api.deployment(one, "v2")).job_variables == {"workers": 3}
    assert fake.count("GET /flows") == 1
    with pytest.raises(NotFound):
        await api.deployment(DeploymentId("gone"))


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_transient(api: Prefect, fake: FakePrefect, code: int) -> None:
    fake.fail("get_scheduled", code, **{"retry-after": "7"})
    with pytest.raises(Transient) as caught:
        await due(api)
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(("said", "expected"), [("nonsense", None), ("-1", None), ("0", 0.0), ("1.5", 1.5)])
async def test_retry_after_is_read_with_care(
    api: Prefect, fake: FakePrefect, said: str, expected: float | None
) -> None:
    fake.fail("get_scheduled", 429, **{"retry-after": said})
    with pytest.raises(Transient) as caught:
        await due(api)
    assert caught.value.retry_after_s == expected


async def test_retry_after_may_be_a_date(api: Prefect, fake: FakePrefect) -> None:
    at = datetime.now(UTC) + timedelta(seconds=60)
    fake.fail("get_scheduled", 429, **{"retry-after": at.strftime("%a, %d %b %Y %H:%M:%S GMT")})
    with pytest.raises(Transient) as caught:
        await due(api)
    assert caught.value.retry_after_s == pytest.approx(60, abs=3)


async def test_a_page_instead_of_json_names_the_setting(api: Prefect, fake: FakePrefect) -> None:
    fake.fail("get_scheduled", "html")
    with pytest.raises(Permanent, match=r"is not JSON: is PREFECT_API_URL the API's address \(it ends in /api\)\?"):
        await due(api)


@pytest.mark.parametrize("answer", [{}, 7, "x", None, {"detail": "no list"}])
async def test_an_answer_of_another_shape_is_permanent(answer: Any) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    async with prefect(PrefectSettings(api_url="http://x/api"), "pool", transport=transport) as api:
        for call in (lambda: due(api), lambda: api.runs_in("RUNNING"), api.ensure_pool, lambda: api.read(RunId("r"))):
            with pytest.raises(Permanent):
                await call()


async def test_an_answer_nested_without_end_is_permanent() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=b"[" * 200_000))
    async with prefect(PrefectSettings(api_url="http://x/api"), "pool", transport=transport) as api:
        with pytest.raises(Permanent):
            await due(api)


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgroup.edge.wire.MAX_ANSWER_BYTES", 1000)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=b"[" + b"1," * 10_000 + b"1]"))
    async with prefect(PrefectSettings(api_url="http://x/api"), "pool", transport=transport) as api:
        with pytest.raises(Permanent, match="larger than"):
            await due(api)


@pytest.mark.parametrize("trouble", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.ReadError("")])
async def test_no_answer_is_transient_and_names_the_setting(trouble: Exception) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise trouble

    async with prefect(PrefectSettings(api_url="http://x/api"), "pool", transport=httpx.MockTransport(fail)) as api:
        with pytest.raises(Transient, match="PREFECT_API_URL"):
            await due(api)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_wrong_key_names_the_settings(api: Prefect, fake: FakePrefect, code: int) -> None:
    fake.fail("get_scheduled", code)
    with pytest.raises(Unauthorized, match="PREFECT_API_KEY"):
        await due(api)


async def test_a_redirect_names_the_setting(api: Prefect, fake: FakePrefect) -> None:
    fake.fail("get_scheduled", 302, location="https://login.example")
    with pytest.raises(Permanent, match=r"login\.example.*PREFECT_API_URL"):
        await due(api)


async def test_csrf_tokens_are_fetched_when_the_server_wants_them() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/csrf-token":
            return httpx.Response(200, json={"token": "t", "client": request.url.params["client"]})
        if request.headers.get("Prefect-Csrf-Token") != "t":
            return httpx.Response(403, json={"detail": "Missing CSRF token."})
        return httpx.Response(200, json=[])

    transport = httpx.MockTransport(answer)
    async with prefect(PrefectSettings(api_url="http://x/api"), "pool", transport=transport) as api:
        assert await due(api) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (PrefectSettings(), "PREFECT_API_URL is not set"),
        (PrefectSettings(api_url="http://[bad/api"), "PREFECT_API_URL"),
        (PrefectSettings(api_url="http://x/api", api_key=SecretStr("a\nb")), "PREFECT_API_KEY"),
        (PrefectSettings(api_url="http://x/api", api_ssl_cert_file="/no/such"), "PREFECT_API_SSL_CERT_FILE"),
    ],
)
async def test_settings_that_cannot_work_are_refused(settings: PrefectSettings, said: str) -> None:
    with pytest.raises(Refused, match=said):
        async with prefect(settings, "pool"):
            pass


@pytest.mark.parametrize("pool", ["", "a/b", "50%"])
async def test_a_pool_name_that_cannot_be_is_refused(pool: str) -> None:
    with pytest.raises(Refused, match="name of a work pool"):
        async with prefect(PrefectSettings(api_url="http://x/api"), pool):
            pass


async def test_the_auth_string_wins_over_the_key_and_headers_are_prefects() -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json=[])

    both = PrefectSettings(
        api_url="http://x/api",
        api_key=SecretStr("key"),
        api_auth_string=SecretStr("user:pass"),
        client_custom_headers={"X-Team": "a"},
    )
    async with prefect(both, "pool", transport=httpx.MockTransport(answer)) as api:
        await due(api)
    assert seen[0]["authorization"] == "Basic dXNlcjpwYXNz"
    assert seen[0]["user-agent"] == "prefect/3.8.8 (API 0.8.4)"
    assert seen[0]["x-prefect-api-version"] == "0.8.4"
    assert seen[0]["x-team"] == "a"


async def test_a_cloud_path_behind_a_proxy_with_a_key_and_a_rate_limit() -> None:
    cloud = FakePrefect(prefix="/api/accounts/A/workspaces/W", key="pnu_secret")
    settings = PrefectSettings(
        api_url="https://api.prefect.test/api/accounts/A/workspaces/W/", api_key=SecretStr("pnu_secret")
    )
    async with prefect(settings, "pool", transport=httpx.ASGITransport(cloud)) as api:
        await api.ensure_pool()
        run = cloud.add_run(cloud.add_deployment())
        cloud.fail("get_scheduled", 429, **{"retry-after": "3"})
        with pytest.raises(Transient) as caught:
            await due(api)
        assert caught.value.retry_after_s == 3
        (seen,) = await due(api)
        assert seen.id == run
        assert isinstance(await api.claim(seen, attempt()), ClaimedRun)
    wrong = PrefectSettings(api_url="https://api.prefect.test/api/accounts/A/workspaces/W", api_key=SecretStr("other"))
    async with prefect(wrong, "pool", transport=httpx.ASGITransport(cloud)) as api:
        with pytest.raises(Unauthorized):
            await api.ensure_pool()


def test_what_is_said_can_be_stored_by_every_server() -> None:
    assert "\x00" not in sayable("a\x00b")
    sayable("\ud800").encode()
    assert len(sayable("x" * 100_000)) == 10_000
