"""What `plan` thinks that clusters take: by the same count as the daemon's caps."""

import json
from pathlib import Path

import pytest

from flowgroup.model.clusters import Takes
from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup
from flowgroup.operate.place import Place
from flowgroup.operate.placing import takes_of
from flowgroup.settings import Settings

_SIZES = {"gpu": {"gpu": 2}, "cpu": {"cpu": "4"}}


def spec(**fields: object) -> ClusterSpec:
    return ClusterSpec.model_validate({"flow_id": FlowId("f"), "flow_name": "etl", "isolation": "pool", **fields})


def takes(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **fields: object) -> Takes:
    (tmp_path / "sizes.json").write_text(json.dumps(_SIZES))
    monkeypatch.setenv("FLOWGROUP_KUBERNETES_SIZES", str(tmp_path / "sizes.json"))
    settings = Settings.read({"pool": "p", "backend": backend, "home": tmp_path})
    return takes_of(Place(settings, "p", tmp_path, "flowgroup"))(spec(**fields))


def test_pods_or_processes_are_counted_as_many_as_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = {"workers": 1, "workers_max": 7, "worker_groups": (WorkerGroup(name="gpu", count=2),)}
    assert takes("kubernetes", tmp_path, monkeypatch).pods == 2
    assert takes("kubernetes", tmp_path, monkeypatch, **growing).pods == 2 + 7 + 2
    assert takes("local", tmp_path, monkeypatch).pods == 1
    assert takes("local", tmp_path, monkeypatch, **growing).pods == 2 + 7 + 2


def test_gpus_are_those_of_sizes_and_of_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = (
        WorkerGroup(name="a", count=3, size="gpu"),
        WorkerGroup(name="b", count=1, size="gpu", resources={"nvidia.com/gpu": "4"}),
        WorkerGroup(name="c", count=5, resources={"nvidia.com/mig-1g.5gb": "1"}),
    )
    assert (
        takes("kubernetes", tmp_path, monkeypatch, workers=2, worker_size="cpu", worker_groups=groups).gpu == 6 + 4 + 5
    )
    assert takes("kubernetes", tmp_path, monkeypatch, workers=2, worker_size="gpu", driver_size="gpu").gpu == 4 + 2


def test_a_cluster_of_a_size_that_is_gone_counts_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes("kubernetes", tmp_path, monkeypatch, workers=2, worker_size="gone") == Takes()
