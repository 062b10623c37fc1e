"""
The flow of `dask_first.py` as it is written without us: a KubeCluster for each run. The image and the number of workers come
from the environment (`DASK_KUBERNETES__…`).
"""

from prefect_dask.task_runners import DaskTaskRunner

from flowgroup.dev.bench.flows.dask_first import asks

_per_run = DaskTaskRunner(cluster_class="dask_kubernetes.operator.KubeCluster")
asks_its_own = asks.with_options(name="asks_its_own", task_runner=_per_run)  # type: ignore[arg-type]  # prefect-dask's
