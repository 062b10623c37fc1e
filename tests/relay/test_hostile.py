"""A real relay process under attack, smaller than in `dev/hostile.py`: refused, counted, and another run goes on."""

import httpx
import pytest

from flowgroup.dev import hostile

_REFUSED = {"400", "401", "403", "404", "408", "413", "431", "closed", "held"}


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "_QUIET_CALLS", 20)


def _went_on(one: hostile.Figures) -> None:
    assert one.failed == 0
    assert one.calls >= 10


async def test_nothing_hostile_passes_and_another_run_goes_on() -> None:
    async with hostile.stage() as on:
        tried = {"forged_tokens": 200, "others_runs": 30, "smuggling": 7, "huge_headers": 6, "odd_paths": 24}
        for name, count in tried.items():
            one = await on.attacked(name, count)
            assert sum(one.answers.values()) == count
            assert not set("+".join(one.answers).split("+")) - _REFUSED, one
            _went_on(one)
        counts = await hostile.counted(on)
        assert counts["unauthorized"] >= tried["forged_tokens"]
        assert counts["refused"] >= tried["others_runs"]


async def test_floods_wait_for_themselves() -> None:
    async with hostile.stage() as on:
        for name, count in {"connections": 400, "many_calls": 300, "websockets": 25, "large_bodies": 3}.items():
            one = await on.attacked(name, count)
            assert sum(one.answers.values()) == count
            _went_on(one)
            if name == "connections":
                assert one.answers.get("closed", 0) >= 400 - 128
            if name == "websockets":
                assert one.answers.get("flooded", 0) <= 16
        assert {status for _, status in await _calls(on)} <= {200, 503}  # nothing of it is left behind
        assert (await hostile.counted(on))["cut_off"] >= 400 - 128


async def _calls(on: hostile.Stage) -> list[tuple[float, int]]:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {on.good_token}"}, trust_env=False) as client:
        return await on.calls(client, 10)
