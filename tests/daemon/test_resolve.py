"""`{{ prefect.… }}` in job variables: asked of the API for each run, and refused by name where it may not be."""

from dataclasses import replace
from typing import Any

import pytest

from flowgroup.daemon.placement import place
from flowgroup.daemon.resolve import told
from flowgroup.edge.wire import Unauthorized
from flowgroup.errors import Refused, Transient
from flowgroup.model.runs import Crashed, Placement
from flowgroup.model.spec import ClusterSpec
from tests.daemon.test_placement import POLICY, deployment, due, template
from tests.fakes.prefect_api import FakePrefect
from tests.fakes.world import World, line

SECRET = "{{ prefect.blocks.secret.mine }}"


class Known:
    """Blocks by `type/name`, and variables."""

    def __init__(self, trouble: Exception | None = None, **variables: Any) -> None:
        self.blocks: dict[str, dict[str, Any]] = {
            "secret/mine": {"value": "hush"},
            "secret/deep": {"value": {"a": {"b-c": ["x", {"d": 7}]}, "value": "in"}},
            "db/main": {"host": "h", "login": {"password": "pw"}, "port": 5},
            "secret/hidden": {"value": "********"},
        }
        self.variables = variables
        self.trouble = trouble

    async def block(self, type_slug: str, name: str) -> dict[str, Any] | None:
        if self.trouble:
            raise self.trouble
        return self.blocks.get(f"{type_slug}/{name}")

    async def variable(self, name: str) -> tuple[Any] | None:
        return (self.variables[name],) if name in self.variables else None


async def placed(api: Known, **variables: Any) -> Placement:
    whole = deployment(job_variables=variables)
    return place(due(), whole, template(), POLICY, await told(api, due(), whole, template()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (SECRET, "hush"),
        ("Bearer {{prefect.blocks.secret.mine}}!", "Bearer hush!"),
        ("{{ prefect.blocks.secret.mine.value }}", "hush"),
        ("{{ prefect.blocks.secret.deep.a.b-c[0] }}", "x"),
        ("{{ prefect.blocks.secret.deep.a.b-c[1].d }}", "7"),
        ("{{ prefect.blocks.db.main.login.password }}@{{ prefect.blocks.db.main.host }}", "pw@h"),
        ("{{ prefect.blocks.db.main.port }}", "5"),
        ("{{ prefect.variables.text }}/{{ prefect.variables.text }}", "{{ $HOME }}/{{ $HOME }}"),
        ("{{ prefect.variables.number }}", "3"),
        ("{{ prefect.variables.list }}", '["a", 1]'),
        ("{{ prefect.variables.nothing }}", "null"),
        ("{{ $HOME }} {{ other }}", "{{ $HOME }} {{ other }}"),
    ],
)
async def test_a_reference_in_env_becomes_its_value_once(text: str, value: str) -> None:
    api = Known(text="{{ $HOME }}", number=3, list=["a", 1], nothing=None)
    assert (await placed(api, env={"A": text, "B": None})).env == {"A": value}


async def test_a_variable_may_stand_anywhere_and_keeps_its_type_when_it_is_alone() -> None:
    api = Known(n=3, tag="v7", groups=[{"name": "gpu", "count": 2}])
    plan = await placed(
        api,
        workers="{{ prefect.variables.n }}",
        image="flows:{{ prefect.variables.tag }}",
        worker_groups="{{ prefect.variables.groups }}",
    )
    assert (plan.spec.workers, plan.spec.image, plan.spec.worker_groups[0].count) == (3, "flows:v7", 2)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"image": f"x/{SECRET}"}, r"job variable image refers to a block .*only values of env"),
        ({"start_script": SECRET}, "job variable start_script refers to a block"),
        ({"worker_groups": [{"name": "gpu", "image": SECRET}]}, r"job variable worker_groups\.0\.image"),
        ({"env": {"A": "{{ prefect.blocks.secret.none }}"}}, "no block 'none' of type 'secret'. Make it"),
        ({"env": {"A": "{{ prefect.blocks.secret }}"}}, r"wants prefect\.blocks\.TYPE\.NAME"),
        ({"env": {"A": "{{ prefect.blocks.db.main }}"}}, r"env\.A is a whole block"),
        ({"env": {"A": "{{ prefect.blocks.db.main.user }}"}}, "has no 'user' in it"),
        ({"env": {"A": "{{ prefect.blocks.secret.hidden }}"}}, "only stars"),
        ({"env": {"A": "{{ prefect.variables.none }}"}}, "no such Prefect variable"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(variables: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        await placed(Known(), **variables)
    assert "hush" not in str(refused.value)


async def test_an_api_that_does_not_answer_puts_the_run_down_and_one_that_forbids_refuses_it() -> None:
    with pytest.raises(Transient):
        await placed(Known(Transient("away")), env={"A": SECRET})
    with pytest.raises(Refused, match=r"secret\.mine \}\}: the API does not say"):
        await placed(Known(Unauthorized("403")), env={"A": SECRET})


async def test_nothing_shows_a_value_that_was_a_block() -> None:
    plan = await placed(Known(), env={"A": SECRET})
    assert plan.env == {"A": "hush"}
    assert "hush" not in repr(plan)
    assert "hush" not in plan.spec.model_dump_json()


async def test_of_what_processes_start_with_a_block_is_the_clusters_and_only_a_keyed_hash_of_it_is_in_its_spec() -> (
    None
):
    api = Known()
    plans = []
    for value, key in (("hush", "k"), ("hush", "k"), ("other", "k"), ("hush", "another key")):
        api.blocks["secret/mine"] = {"value": value}
        whole = deployment(job_variables={"env": {"DASK_TOKEN": SECRET, "DASK_X": "1", "MINE": SECRET}})
        policy = replace(POLICY, key=key)
        plans.append(place(due(), whole, template(), policy, await told(api, due(), whole, template())))
    one, same, other, foreign = (plan.spec for plan in plans)
    assert one.name == same.name
    assert len({one.name, other.name, foreign.name}) == 3
    assert (one.env, one.secrets, set(one.secret_env)) == ({"DASK_X": "1"}, {"DASK_TOKEN": "hush"}, {"DASK_TOKEN"})
    assert "hush" not in one.model_dump_json() + repr(plans[0])
    assert ClusterSpec.model_validate_json(one.model_dump_json()).name == one.name


@pytest.mark.looptime
async def test_a_changed_block_is_the_next_runs_and_a_missing_one_ends_the_run() -> None:
    fake = FakePrefect()
    made = fake.add_deployment(job_variables={"env": {"A": SECRET}})
    run = fake.add_run(made)
    async with line(World(fake)) as at:
        for value in ("one", "two"):
            fake.blocks["secret/mine"] = {"id": "b", "data": {"value": value}}
            (waiting,) = await at.api.due(limit=1, before=fake.now())
            plan = await at.journeys._plan(waiting)
            assert isinstance(plan, Placement)
            assert plan.env == {"A": value}
        del fake.blocks["secret/mine"]
        (waiting,) = await at.api.due(limit=1, before=fake.now())
        assert isinstance(await at.journeys._plan(waiting), Crashed)
        await at.journeys.carry(waiting)
    assert fake.states(run)[-1] == "CRASHED"
    assert "no block 'mine' of type 'secret'" in fake.message(run)
