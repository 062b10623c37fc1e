"""A call with records over a real connection: what a slow server says in the end is still heard."""

import pytest

from flowgroup.edge import forward
from flowgroup.relay.spool import upward
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.upward import Fate, Upward
from flowgroup.relay.upstream import Secrets, Upstream
from tests.fakes.upstream import Failure, fake_api


@pytest.mark.parametrize(("status", "fate"), [(0, Fate.TAKEN), (503, Fate.DOUBTFUL)])
async def test_a_call_without_an_answer_in_time_stays_under_way_and_is_heard(
    monkeypatch: pytest.MonkeyPatch, status: int, fate: Fate
) -> None:
    monkeypatch.setattr(upward, "_ANSWER_S", 0.05)
    async with fake_api() as api, forward.client() as client:
        told = Secrets(api_url=api.url, api_key="the-real-token", control_key="control-key-of-tests")  # type: ignore[arg-type]
        api.failure = Failure(status=status, delay_s=0.5, path="/logs/")
        up = Upward(Upstream(told, client, verify=None), client, hold_s=5.0)
        answer = await up.post(Kind.LOGS, [b'{"message": "1"}'])
        assert (answer.fate, answer.status, answer.late_s) == (Fate.DOUBTFUL, 0, upward.CARRIED_OUT_WITHIN_S)
        assert answer.under_way is not None
        heard = await answer.under_way
        assert (heard.fate, heard.late_s) == (fate, 0.0)
        assert len(api.seen) == 1
