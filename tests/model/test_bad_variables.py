"""
Every job variable with wrong values: the pool's schema refuses them, as Prefect's server checks it, and so do we.

What is left out of an object (a group without a name) the server lets into a deployment, and refuses for each run.
"""

from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import validate

from flowgroup.client import wish
from flowgroup.errors import Refused
from flowgroup.model.variables import JobVariables, WorkerGroup, base_job_template, parse
from tests.model.test_pod import GOOD, mounted, volume

WRONG: dict[str, list[Any]] = {
    "workers": [-1, 10_001, "many", 1.5, [1]],
    "workers_min": [-1, 10_001, "few", 1.5],
    "workers_max": [0, 10_001, "many", 1.5],
    "worker_processes": [0, 257, "x"],
    "worker_threads": [0, 1025, {}],
    "worker_memory": ["lots", "2 GBytes", 5],
    "worker_size": [7, "x" * 64],
    "scheduler_size": [7, "x" * 64],
    "driver_size": [["a"], "x" * 64],
    "worker_spot": ["maybe", 7],
    "worker_groups": [
        {"name": "gpu"},
        [{"count": 1}],
        [{"name": "No"}],
        [{"name": "gpu", "count": -1}],
        [{"name": "gpu", "min": -1}],
        [{"name": "gpu", "max": "many"}],
        [{"name": "gpu", "size": 3}],
        [{"name": "gpu", "image": []}],
        [{"name": "gpu", "node_selector": {"a": []}}],
        [{"name": "gpu", "tolerations": ["x"]}],
        [{"name": "gpu", "affinity": "x"}],
        [{"name": "gpu", "priority_class": 3}],
        [{"name": "gpu", "resources": {"a": []}}],
        [{"name": "gpu", "spot": "maybe"}],
        [{"name": "gpu", "dask_resources": {"GPU": "one"}}],
        [{"name": "gpu", "gpus": 1}],
        [{"name": f"g{number}"} for number in range(33)],
    ],
    "mode": ["alone", 1],
    "idle_timeout_s": [-1, "long"],
    "isolation": [5, "x" * 64],
    "image": [5, "x" * 1025],
    "start_script": [5, ["echo"], "x" * 65_537],
    "env": [
        "A=1",
        ["A=1"],
        {"A": 1},
        {"A": ["x"]},
        {"A B": "x"},
        {"1A": "x"},
        {"FLOWGROUP_HOME": "x"},
        {"PREFECT_API_KEY": "x"},
        {"DASK_WORKER_NAME": "x"},
    ],
    "env_from": [
        "db",
        ["db"],
        GOOD["env_from"][0],
        [{}],
        [{"secret": {"name": "db"}}],
        [{"secretRef": {}}],
        [{"secretRef": {"name": "A B"}}],
        [{"secretRef": {"name": "db"}, "prefix": "1"}],
    ],
    "env_value_from": [
        {"A": "x"},
        {"A": {}},
        {"A": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"A": {"secretKeyRef": {"name": "db"}}},
        {"A": {"secretKeyRef": {"name": "db", "key": "a/b"}}},
        {"PREFECT_API_URL": {"secretKeyRef": {"name": "db", "key": "a"}}},
    ],
    "volumes": [
        "data",
        [{"name": "v"}],
        *(
            volume(**kind)["volumes"]
            for kind in (
                {"hostPath": {"path": "/"}},
                {"projected": {"sources": []}},
                {"csi": {"driver": "x"}},
                {"nfs": {"server": "x", "path": "/"}},
                {"secret": {"secretName": "A B"}},
                {"secret": {"secretName": "s", "defaultMode": 511}},
                {"configMap": {}},
                {"emptyDir": {"sizeLimit": "big"}},
                {"emptyDir": {"medium": "Disk"}},
                {"persistentVolumeClaim": {"claimName": 5}},
            )
        ),
    ],
    "volume_mounts": [
        "/data",
        [{"name": "v"}],
        mounted("data")["volume_mounts"],
        mounted("/a:b")["volume_mounts"],
        mounted("/data", subPath="/x")["volume_mounts"],
        mounted("/data", mountPropagation="Bidirectional")["volume_mounts"],
    ],
    "service_account": ["No one", 5],
    "memory_limit_bytes": [0, "1GiB"],
    "infrastructure_retries": [-1, 101, "many", 1.5],
    "retry_evicted": ["maybe", 7],
    "skip_if_late_s": [-1, "long"],
    "bundle": ["s3://b/x.zip", {"address": "http://x", "statement": ""}, {"statement": "x"}],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]
SCHEMA = base_job_template()["variables"]


def test_every_field_is_in_the_table() -> None:
    assert set(WRONG) == set(JobVariables.model_fields)
    said = {field for group in WRONG["worker_groups"] if isinstance(group, list) for field in group[0]}
    assert said >= set(WorkerGroup.model_fields)


@pytest.mark.parametrize(("name", "value"), CASES)
def test_the_pools_schema_and_our_check_refuse_it_and_name_the_field(name: str, value: Any) -> None:
    errors = validate({name: value}, SCHEMA, preprocess=True, allow_none_with_default=True)
    assert errors
    assert {str(error.path[0]) for error in errors} == {name}
    for check in (parse, lambda said: wish.job_variables(None, None, None, None, said)):
        if name == "bundle" and check is not parse:
            continue  # nobody but deploy itself says it
        with pytest.raises(Refused, match=name):
            check({name: value})


def test_a_name_that_there_is_not_is_refused_too() -> None:
    for name in ("n_workers", "command", "envFrom", "allow_unsigned"):
        assert validate({name: 1}, SCHEMA, preprocess=True, ignore_required=True)
        with pytest.raises(Refused, match=name):
            parse({name: 1})


def test_what_is_right_passes_both() -> None:
    right = {"workers": 2, "env": {"A": "{{ prefect.blocks.secret.x }}", "B": None}, **GOOD}
    assert not validate(right, SCHEMA, preprocess=True, ignore_required=True, allow_none_with_default=True)
    assert parse(right)
