"""What an author may say about a cluster."""

import dataclasses
import warnings

import pytest

from flowgroup.client.cluster import Cluster
from flowgroup.errors import Refused
from flowgroup.model import variables
from flowgroup.model.variables import WorkerGroup


def test_a_cluster_of_nothing_said_has_two_workers() -> None:
    assert Cluster().job_variables() == {"workers": 2}


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster(workers=0), {"workers": 0}),
        (
            Cluster(workers=3, worker_threads=2, worker_memory="2GiB"),
            {"workers": 3, "worker_threads": 2, "worker_memory": "2GiB"},
        ),
        (Cluster(n_workers=4, nprocs=2, nthreads=8), {"workers": 4, "worker_processes": 2, "worker_threads": 8}),
        (
            Cluster(worker_size="large", scheduler_size="medium"),
            {"workers": 2, "worker_size": "large", "scheduler_size": "medium"},
        ),
        (Cluster(worker_is_spot=True), {"workers": 2, "worker_spot": True}),
        (
            Cluster(worker_groups=[WorkerGroup(name="gpu", count=2, size="gpu", dask_resources={"GPU": 1})]),
            {
                "workers": 0,
                "worker_groups": [{"name": "gpu", "count": 2, "size": "gpu", "dask_resources": {"GPU": 1.0}}],
            },
        ),
        (Cluster(workers_max=4), {"workers": 0, "workers_max": 4}),
        (Cluster(workers_min=1, workers_max=4), {"workers": 1, "workers_min": 1, "workers_max": 4}),
        (
            Cluster(worker_groups=[WorkerGroup(name="gpu", count=1, max=2)]),
            {"workers": 0, "worker_groups": [{"name": "gpu", "count": 1, "max": 2}]},
        ),
        (Cluster(mode="per-run", idle_timeout_s=5), {"workers": 2, "mode": "per-run", "idle_timeout_s": 5}),
    ],
)
def test_names_of_ours_and_of_prefect_saturn_mean_the_same(cluster: Cluster, said: dict[str, object]) -> None:
    assert cluster.job_variables() == said
    variables.parse(cluster.job_variables())


def test_autoclose_warns_and_means_a_cluster_per_run() -> None:
    with pytest.warns(FutureWarning, match="mode='per-run'") as caught:
        cluster = Cluster(autoclose=True)
    assert cluster.job_variables()["mode"] == "per-run"
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning):
        assert "mode" not in Cluster(autoclose=False).job_variables()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"n_workers": -1}, r"Cluster\(n_workers=-1\): .*greater than or equal to 0.*no Dask"),
        ({"workers": -1}, r"Cluster\(workers=-1\)"),
        ({"nthreads": 0}, r"Cluster\(nthreads=0\)"),
        ({"worker_memory": "lots"}, r"Cluster\(worker_memory='lots'\).*For example 2GiB"),
        ({"workers": 5, "workers_max": 4}, "workers is 5, which is more than workers_max, 4"),
        ({"workers_min": 5, "workers_max": 4}, "workers_min is 5, which is more than workers_max, 4"),
        ({"workers_min": 2}, "workers_min is 2, but workers_max is not said"),
        ({"mode": "mine"}, r"Cluster\(mode='mine'\)"),
        ({"workers": 2, "n_workers": 2}, "both workers and n_workers.*keep workers"),
        ({"worker_processes": 2, "nprocs": 2}, "both worker_processes and nprocs"),
    ],
)
def test_wrong_values_and_things_said_twice_are_refused(said: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        Cluster(**said)


def test_autoclose_beside_a_mode_is_refused() -> None:
    with warnings.catch_warnings(), pytest.raises(Refused, match="both mode and autoclose"):
        warnings.simplefilter("ignore")
        Cluster(mode="shared", autoclose=True)


def test_a_cluster_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cluster().workers = 3
