"""What a child need not ask, since the daemon knows it: as the API and Prefect's engine have it."""

import uuid

import pytest

from flowgroup.daemon.known import Knowledge
from flowgroup.edge.prefect import Prefect
from flowgroup.model.ids import DeploymentId, new_attempt
from flowgroup.model.runs import ClaimedRun, Deployment
from tests.fakes.prefect_api import utc_now
from tests.fakes.world import OWNER, World, line

pytestmark = pytest.mark.looptime


async def claimed(world: World, api: Prefect) -> tuple[ClaimedRun, Deployment]:
    (due,) = await api.due(limit=5, before=utc_now())
    assert due.deployment_id
    run = await api.claim(due, new_attempt(OWNER, uuid.uuid4()))
    assert isinstance(run, ClaimedRun)
    return run, await api.deployment(DeploymentId(due.deployment_id))


async def test_the_run_is_as_the_api_would_show_it_and_asking_again_costs_nothing() -> None:
    world = World()
    world.fake.storage = "a block"
    run_id = world.fake.add_run(world.fake.add_deployment(tags=["b"]), tags=["a", "b"], parameters={"x": [1]})
    async with line(world) as at:
        run, deployment = await claimed(world, at.api)
        known = await Knowledge(at.api).of(run, deployment)
        assert known.flow_run is not None
        assert known.flow_run["state"] == world.fake.runs[run_id]["state"]
        assert known.flow_run["state_name"] == "Pending"
        assert known.flow_run["parameters"] == {"x": [1]}
        assert known.flow_run["work_pool_name"] == "pool"
        assert (known.default_result_storage, known.is_default_result_storage_known) == ("a block", True)
        assert known.related is not None
        assert [(one["prefect.resource.role"], one.get("prefect.resource.name")) for one in known.related] == [
            ("flow", "etl"),
            ("deployment", "dev"),
            ("work-queue", "default"),
            ("work-pool", "pool"),
            ("tag", None),
            ("tag", None),
        ]
        before = len(world.fake.calls)
        assert await Knowledge(at.api).of(run, deployment) == known
        assert len(world.fake.calls) == before
    assert "parameters" not in repr(run)
    assert "parameters" not in repr(known)


@pytest.mark.parametrize(
    ("pattern", "lacks"),
    [
        ("GET /work_queues", ("flow_run", "related")),
        ("GET /work_pools", ("flow_run", "related")),
        ("GET /admin/storage", ("default_result_storage",)),
    ],
)
@pytest.mark.parametrize("how", [404, 503, "html"])
async def test_what_cannot_be_had_is_left_out(pattern: str, lacks: tuple[str, ...], how: int | str) -> None:
    world = World()
    world.fake.storage = "a block"
    world.fake.add_run(world.fake.add_deployment())
    world.fake.fail(pattern, how, times=1000)
    async with line(world) as at:
        run, deployment = await claimed(world, at.api)
        known = await Knowledge(at.api).of(run, deployment)
        missing = [name for name in ("flow_run", "related", "default_result_storage") if getattr(known, name) is None]
        assert tuple(missing) == lacks
        assert known.is_default_result_storage_known == ("default_result_storage" not in lacks)


async def test_a_run_with_large_parameters_is_left_to_be_asked_for() -> None:
    world = World()
    world.fake.add_run(world.fake.add_deployment(), parameters={"x": "y" * 2_000_000})
    async with line(world) as at:
        run, deployment = await claimed(world, at.api)
        known = await Knowledge(at.api).of(run, deployment)
        assert known.flow_run is None
        assert known.related is not None


async def test_a_claim_whose_answer_was_lost_leaves_the_run_out() -> None:
    world = World()
    world.fake.add_run(world.fake.add_deployment())
    world.fake.fail("set_state", "lost")
    async with line(world) as at:
        run, deployment = await claimed(world, at.api)
        known = await Knowledge(at.api).of(run, deployment)
        assert known.flow_run is None
        assert known.related is not None
