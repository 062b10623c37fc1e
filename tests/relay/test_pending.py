"""A call that the API may still carry out is never sent a second time; sent again, it gets the first one's answer."""

import asyncio
from pathlib import Path

import httpx
import pytest

from flowgroup.errors import Transient
from flowgroup.relay.pending import Answer, Pending
from flowgroup.settings import RelaySettings
from tests.fakes.upstream import Failure
from tests.relay.serving import Relay, relay, waits

pytestmark = pytest.mark.looptime
SHORT = RelaySettings(hold_s=0.3)


class Api:
    """Answers after `slow_s` seconds, in virtual time; counts what it carried out."""

    def __init__(self, slow_s: float, status: int = 201) -> None:
        self.slow_s = slow_s
        self.status = status
        self.carried_out = 0

    async def exchange(self) -> Answer:
        await asyncio.sleep(self.slow_s)
        self.carried_out += 1
        return httpx.Response(self.status), b"%d" % self.carried_out


async def patiently(pending: Pending, api: Api, call: object = "call", *, tries: int = 100) -> bytes | None:
    for _ in range(tries):
        try:
            return (await pending.answer(call, api.exchange, wait_s=5.0))[1]
        except Transient:
            await asyncio.sleep(1.0)
    pytest.fail("no answer")


async def test_a_slow_call_is_carried_out_once_however_often_it_is_sent() -> None:
    api = Api(slow_s=40.0)
    assert await patiently(Pending(), api) == b"1"
    assert api.carried_out == 1


async def test_an_answer_that_came_while_nobody_waited_is_kept_for_the_caller() -> None:
    pending, api = Pending(), Api(slow_s=6.0)
    with pytest.raises(Transient, match="no answer within 5 s"):
        await pending.answer("call", api.exchange, wait_s=5.0)
    await asyncio.sleep(20.0)
    assert (await pending.answer("call", api.exchange, wait_s=5.0))[1] == b"1"
    assert api.carried_out == 1


async def test_an_answer_is_not_kept_for_ever_nor_given_twice() -> None:
    pending, api = Pending(kept_s=30.0), Api(slow_s=6.0)
    with pytest.raises(Transient):
        await pending.answer("call", api.exchange, wait_s=5.0)
    await asyncio.sleep(40.0)
    assert await patiently(pending, api) == b"2"
    assert await patiently(pending, api) == b"3"


async def test_equal_calls_that_come_together_are_as_many_calls() -> None:
    pending, api = Pending(), Api(slow_s=12.0)
    answers = await asyncio.gather(*(patiently(pending, api) for _ in range(4)))
    assert sorted(answers) == [b"1", b"2", b"3", b"4"]


async def test_other_calls_never_get_its_answer() -> None:
    pending, api = Pending(), Api(slow_s=6.0)
    with pytest.raises(Transient):
        await pending.answer("a", api.exchange, wait_s=5.0)
    await asyncio.sleep(5.0)
    assert await patiently(pending, api, "b") == b"2"


async def test_trouble_is_not_kept_so_that_the_call_is_sent_again_at_once() -> None:
    pending, api = Pending(), Api(slow_s=6.0, status=503)
    with pytest.raises(Transient):
        await pending.answer("call", api.exchange, wait_s=5.0)
    await asyncio.sleep(2.0)
    api.status, api.slow_s = 201, 0.1
    assert await patiently(pending, api) == b"2"


async def test_beyond_the_bound_calls_are_given_up() -> None:
    pending, api = Pending(most=2), Api(slow_s=8.0)
    sent = [pending.answer(call, api.exchange, wait_s=5.0) for call in range(5)]
    assert all(isinstance(one, Transient) for one in await asyncio.gather(*sent, return_exceptions=True))
    await asyncio.sleep(10.0)
    assert api.carried_out == 2


async def again(on: Relay, path: str, **call: object) -> httpx.Response:
    """As Prefect's client: it waits, and sends the same call again."""
    for _ in range(20):
        answer = await on.child.post(path, **call)
        if answer.status_code != 503:
            return answer
        assert waits(answer)
        await asyncio.sleep(0.2)
    pytest.fail("no answer")


@pytest.mark.looptime(False)
async def test_a_state_reaches_a_slow_api_once(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=SHORT) as on:
        on.api.failure = Failure(200, delay_s=2.0, times=1)
        answer = await again(on, f"/api/flow_runs/{on.run}/set_state", json={"state": {"type": "RUNNING"}})
        assert answer.status_code == 200
        assert len(on.api.seen) == 1


@pytest.mark.looptime(False)
async def test_what_a_slow_call_made_belongs_to_the_run(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=SHORT) as on:
        made = "6f7d1c9e-6a1e-4df0-9a52-111111111111"
        on.api.failure = Failure(201, body=b'{"id": "%s"}' % made.encode(), delay_s=1.0, times=1)
        body = {"flow_id": made, "state": {"type": "PENDING"}, "parent_task_run_id": None}
        assert (await again(on, "/api/flow_runs/", json=body)).status_code == 201
        assert (await on.child.post(f"/api/flow_runs/{made}/set_state", json={})).status_code == 200


@pytest.mark.looptime(False)
async def test_reading_is_given_up_and_done_again(tmp_path: Path) -> None:
    async with relay(tmp_path, settings=SHORT) as on:
        on.api.failure = Failure(200, delay_s=2.0, times=1)
        assert (await again(on, "/api/flow_runs/filter", json={})).json() == {"path": "/flow_runs/filter"}
        assert len(on.api.seen) == 2
