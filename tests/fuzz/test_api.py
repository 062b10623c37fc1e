"""Prefect's API, and what stands before it, may answer anything: our own errors come out, and no good item is lost."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import httpx
import pytest

from flowgroup.daemon.placement import Policy
from flowgroup.daemon.plan import planned
from flowgroup.edge import events
from flowgroup.edge.channel import teardown_of
from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import AttemptId, DeploymentId, FlowId, RunId
from flowgroup.model.runs import DueRun
from flowgroup.model.states import Saying
from flowgroup.settings import PrefectSettings
from tests.fuzz.mutating import fuzz, fuzz_async, spoilt, spoilt_bytes
from tests.fuzz.recorded import ANSWERS, ATTEMPT, DEPLOYMENT, EVENT, FLOW, FLOW_RUN, RUN, SCHEDULED, TEARDOWN

MOMENT = datetime(2026, 11, 22, tzinfo=UTC)
DUE = DueRun(RunId(RUN), "run", FlowId(FLOW), DeploymentId(DEPLOYMENT), MOMENT, {"workers": 1}, deployment_version="v1")
CALLS: dict[str, Callable[[Prefect], Awaitable[Any]]] = {
    "ensure_pool": lambda api: api.ensure_pool(),
    "due": lambda api: api.due(limit=10, before=MOMENT),
    "claim": lambda api: api.claim(DUE, AttemptId(ATTEMPT)),
    "say": lambda api: api.say(RunId(RUN), Saying("CRASHED", "why")),
    "say_waiting": lambda api: api.say_waiting(RunId(RUN), "Waiting", "why"),
    "read": lambda api: api.read(RunId(RUN)),
    "last_claim": lambda api: api.last_claim(RunId(RUN)),
    "end_of": lambda api: api.end_of(RunId(RUN)),
    "runs_in": lambda api: api.runs_in("RUNNING"),
    "to_stop": lambda api: api.to_stop([RunId(RUN), RunId("other")]),
    "open_children": lambda api: api.open_children(RunId(RUN)),
    "block": lambda api: api.block("secret", "b"),
    "variable": lambda api: api.variable("v"),
    "planned": lambda api: planned(api, DUE, Policy("pool")),
}


def answer_to(path: str) -> Any:
    return next((answer for part, answer in ANSWERS.items() if part in path), {})


@pytest.mark.parametrize("name", CALLS)
async def test_whatever_the_api_answers_is_an_answer_or_an_error_of_ours(name: str) -> None:
    async def check(random: Random) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            code = random.choice((200, 200, 200, 201, 204, 302, 400, 404, 409, 429, 500))
            headers = {"retry-after": random.choice(("1", "", "x", "9" * 400, "Wed, 21 Oct 1015 07:28:00 GMT", "-1"))}
            return httpx.Response(code, content=spoilt_bytes(answer_to(request.url.path), random), headers=headers)

        settings = PrefectSettings(api_url="http://prefect.test/api")
        async with prefect(settings, "pool", transport=httpx.MockTransport(answer)) as api:
            try:
                await CALLS[name](api)
            except FlowgroupError:
                return

    await fuzz_async(check, share=0.3 if name == "ensure_pool" else 1)


@pytest.mark.parametrize("name", ["due", "runs_in"])
async def test_a_bad_item_costs_no_good_one(name: str) -> None:
    good = {"due": SCHEDULED, "runs_in": FLOW_RUN}[name]
    text = json.dumps(good)

    async def check(random: Random) -> None:
        def answer(_: httpx.Request) -> httpx.Response:
            items = [
                json.loads(text.replace(RUN, "before")),
                spoilt(good, random),
                json.loads(text.replace(RUN, "after")),
            ]
            return httpx.Response(200, content=json.dumps(items).encode())

        async with prefect(
            PrefectSettings(api_url="http://prefect.test/api"), "pool", transport=httpx.MockTransport(answer)
        ) as api:
            found = [run.id for run in await CALLS[name](api)]
        assert found[0] == "before"
        assert found[-1] == "after"

    await fuzz_async(check)


@pytest.mark.parametrize(("parser", "said"), [(events._notice, EVENT), (teardown_of, TEARDOWN)])
def test_a_frame_of_a_websocket_is_something_or_nothing(parser: Callable[[bytes], object], said: Any) -> None:
    assert parser(json.dumps(said).encode()) is not None
    fuzz(lambda random: (parser(spoilt_bytes(said, random)), None)[1])
