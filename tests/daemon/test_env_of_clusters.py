"""Which part of `env` is the cluster's, which is a run's own, and which of it an author signs."""

from pathlib import Path
from typing import Any

import pytest

from flowgroup import signing
from flowgroup.daemon.placement import Policy, place
from flowgroup.daemon.resolve import told
from flowgroup.errors import Refused
from flowgroup.model.runs import Placement
from flowgroup.model.spec import to_be_signed
from flowgroup.model.variables import parse
from tests.daemon.test_placement import POLICY, bundle, deployment, due, template
from tests.daemon.test_resolve import SECRET, Known

ENV = {"MODE": "prod", "DASK_X": "1", "GONE": None}
WORKERS: list[dict[str, Any]] = [{"workers": 1}, {"workers_max": 2}, {"worker_groups": [{"name": "gpu", "max": 1}]}]


def placed(run: dict[str, Any], policy: Policy = POLICY, **variables: Any) -> Placement:
    return place(due(**run), deployment(job_variables=variables), template(), policy)


@pytest.mark.parametrize("workers", WORKERS)
def test_with_workers_all_that_pool_and_deployment_say_is_the_clusters(workers: dict[str, Any]) -> None:
    whole = deployment(job_variables={"env": ENV, **workers})
    plan = place(due(), whole, template(env={"SITE": "north", "MODE": "dev"}), POLICY)
    assert plan.spec.env == {"SITE": "north", "MODE": "prod", "DASK_X": "1"}
    assert plan.env == plan.spec.env
    changed = placed({}, env={**ENV, "MODE": "test"}, **workers)
    assert changed.spec.name != plan.spec.name


def test_without_workers_only_what_processes_start_with_is_and_another_value_is_no_other_cluster() -> None:
    one, two = (placed({}, env={**ENV, "MODE": mode}) for mode in ("prod", "test"))
    assert one.spec == two.spec
    assert one.spec.env == {"DASK_X": "1"}


def test_names_of_clusters_without_env_are_what_they_were() -> None:
    assert placed({}).spec.name == "etl-f3badff0829e"
    assert placed({}, workers=2).spec.name == "etl-9935842673c5"


@pytest.mark.parametrize("own", ["dev", None])
def test_what_a_run_itself_sets_is_on_no_worker_and_neither_is_what_it_replaces(own: str | None) -> None:
    plain = placed({}, env=ENV, workers=1)
    plan = placed({"env": {"MODE": own, "MORE": "x"}}, env=ENV, workers=1)
    assert plan.spec.env == {"DASK_X": "1"}
    assert plan.env == {"DASK_X": "1", "MORE": "x", **({"MODE": own} if own else {})}
    assert plan.spec.name != plain.spec.name
    assert placed({"env": {"MORE": "x"}}, env=ENV, workers=1).spec.name == plain.spec.name


async def test_a_block_is_in_the_spec_of_a_cluster_with_workers_by_a_keyed_hash_alone() -> None:
    api, plans = Known(where="north"), []
    env = {"TOKEN": f"Bearer {SECRET}", "SITE": "{{ prefect.variables.where }}"}
    whole = deployment(job_variables={"env": env, "workers": 1})
    for value in ("hush", "other"):
        api.blocks["secret/mine"] = {"value": value}
        plans.append(place(due(), whole, template(), POLICY, await told(api, due(), whole, template())))
    one, other = (plan.spec for plan in plans)
    assert (one.env, one.secrets, set(one.secret_env)) == ({"SITE": "north"}, {"TOKEN": "Bearer hush"}, {"TOKEN"})
    assert one.name != other.name
    assert "hush" not in one.model_dump_json() + repr(plans[0])


@pytest.mark.parametrize("value", ["a\0b"])
def test_a_value_that_no_environment_can_have_is_refused_by_name_and_not_shown(value: str) -> None:
    with pytest.raises(Refused, match="the value of 'WORD' has a NUL") as refused:
        placed({}, env={"WORD": value})
    assert value not in str(refused.value)


@pytest.fixture
def keys(tmp_path: Path) -> signing.KeyPair:
    return signing.new_pair(tmp_path)


def signed(keys: signing.KeyPair, **variables: Any) -> dict[str, Any]:
    said = parse(variables)
    ref = bundle(keys.private, start_script=said.start_script, environment=to_be_signed(said))
    return {**variables, "bundle": ref}


def test_without_a_start_script_the_clusters_other_variables_may_be_changed_unsigned(keys: signing.KeyPair) -> None:
    strict = Policy("pool", public_keys=signing.load_public(keys.public))
    said = signed(keys, env=ENV, workers=1)
    assert placed({}, strict, **{**said, "env": {**ENV, "MODE": "test"}}).spec.env["MODE"] == "test"
    with pytest.raises(Refused, match="the environment of"):
        placed({}, strict, **{**said, "env": {**ENV, "LD_PRELOAD": "/evil"}})


@pytest.mark.parametrize("changed", [{"BASH_ENV": "$(evil)"}, {"PIP_INDEX_URL": "https://evil"}, {"MODE": "test"}])
def test_what_a_start_script_starts_with_is_signed_all_of_it(keys: signing.KeyPair, changed: dict[str, str]) -> None:
    strict = Policy("pool", public_keys=signing.load_public(keys.public))
    said = signed(keys, env=ENV, workers=1, start_script="pip install x")
    assert placed({}, strict, **said).spec.env["MODE"] == "prod"
    assert placed({"env": {**changed, "MODE": "dev"}}, strict, **said).spec.env == {"DASK_X": "1"}
    with pytest.raises(Refused, match="the environment of"):
        placed({}, strict, **{**said, "env": {**ENV, **changed}})
    alone = {**said, "workers": 0, "env": {**ENV, **changed}}
    assert placed({}, strict, **alone).spec.env == {"DASK_X": "1"}  # it is the run's own


async def test_a_reference_is_signed_as_it_is_written(keys: signing.KeyPair) -> None:
    strict = Policy("pool", public_keys=signing.load_public(keys.public), key="k")
    said = signed(keys, env={"TOKEN": SECRET, "DASK_TOKEN": SECRET}, workers=1, start_script="pip list")
    whole = deployment(job_variables=said)
    plan = place(due(), whole, template(), strict, await told(Known(), due(), whole, template()))
    assert set(plan.spec.secret_env) == {"TOKEN", "DASK_TOKEN"}
