"""A thousand clusters at once: what is asked and made of Kubernetes stays within bounds, and all is made."""

import asyncio
from typing import Any

import pytest

from flowgroup.edge.kubernetes.backend import Kubernetes
from flowgroup.edge.kubernetes.budget import Budget
from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec
from tests.edge.kubernetes.test_backend import api, backend, ended, spec  # noqa: F401  fixtures
from tests.fakes.kubernetes import FakeKubernetes

pytestmark = pytest.mark.looptime
_MANY = 150


def specs() -> list[ClusterSpec]:
    return [spec(flow_id=FlowId(f"flow-{number}"), workers=1) for number in range(_MANY)]


async def test_those_that_were_asked_for_first_are_whole_before_the_last_are_begun(
    api: FakeKubernetes,  # noqa: F811
    backend: Kubernetes,  # noqa: F811
) -> None:
    await asyncio.gather(*(backend.create(one) for one in specs()))
    begun = [at for at, call in enumerate(api.seen) if call[:2] == ("create", "daskclusters")]
    whole = [at for at, call in enumerate(api.seen) if call[:2] == ("create", "pods")]
    assert len(begun) == len(whole) == _MANY
    assert max(sum(at < end for at in begun) - done for done, end in enumerate(whole)) <= 8


async def test_many_are_deleted_some_at_a_time_and_nothing_is_left(
    api: FakeKubernetes,  # noqa: F811
    backend: Kubernetes,  # noqa: F811
) -> None:
    await asyncio.gather(*(backend.create(one) for one in specs()))
    await asyncio.gather(*(backend.delete(one.name) for one in specs()))
    assert not api.objects or {plural for plural, _ in api.objects} <= {"deployments", "services"}


async def test_the_more_pods_the_more_seldom_they_are_listed(api: FakeKubernetes, backend: Kubernetes) -> None:  # noqa: F811
    every = specs() + [spec(flow_id=FlowId(f"more-{number}"), workers=1) for number in range(_MANY)]
    await asyncio.gather(*(backend.create(one) for one in every))
    assert await backend.look(every[0].name) is None
    pods = len(api.names("pods"))
    assert pods == 2 * len(every)
    before = api.calls("list", "pods")
    for _ in range(30):
        await asyncio.sleep(1)
        assert await backend.look(every[0].name) is None
    pages = -(-pods // 500)
    assert (api.calls("list", "pods") - before) // pages == pytest.approx(30 / (pods / 200), abs=1)


async def test_a_cluster_is_not_judged_by_what_was_asked_before_it_was_made(
    api: FakeKubernetes,  # noqa: F811
    backend: Kubernetes,  # noqa: F811
) -> None:
    await asyncio.gather(*(backend.create(one) for one in specs()))
    await backend.look(specs()[0].name)
    await asyncio.sleep(0.5)
    late = spec(flow_id=FlowId("late"), workers=1)
    await backend.create(late)
    assert await backend.look(late.name) is None, "it is not in the list that is still good"
    assert late.name not in await backend.asks()
    api.set_status(f"{late.name}-driver", **ended(137, "OOMKilled"))
    await asyncio.sleep(3)
    assert "memory" in str(await backend.look(late.name))


async def test_of_many_that_wait_only_some_are_asked_for_each_second(api: FakeKubernetes, backend: Kubernetes) -> None:  # noqa: F811
    await asyncio.gather(*(backend.create(one) for one in specs()))
    await backend.look(specs()[0].name)
    before = api.calls("list", "pods")
    for _ in range(10):
        await asyncio.gather(*(backend.why_never(one.name) for one in specs()))
        await asyncio.gather(*(backend.why_waiting(one.name) for one in specs()))
        await asyncio.sleep(1)
    assert api.calls("list", "pods") - before <= 2 * (40 + 10 * 20) + 10


async def test_a_budget_is_saved_for_a_while_and_no_longer() -> None:
    budget = Budget(per_s=2.0, saved=4.0)
    taken: list[Any] = [budget.take() for _ in range(60)]
    assert sum(taken) >= 4
    await asyncio.sleep(1)
    assert sum(budget.take() for _ in range(60)) == 2
    await asyncio.sleep(100)
    assert sum(budget.take() for _ in range(60)) == 4
