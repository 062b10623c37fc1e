"""
flowgroup: runs each Prefect flow on a Dask cluster of its own.

What a flow author uses is imported on first use, so that `flowgroup --help` and the daemon never pay for Prefect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Cluster", "WorkerGroup", "__version__", "deploy", "get_dask_client"]

if TYPE_CHECKING:
    from flowgroup.client.cluster import Cluster
    from flowgroup.client.deploy import deploy
    from flowgroup.client.inside import get_dask_client
    from flowgroup.model.variables import WorkerGroup

_HOMES = {
    "Cluster": "flowgroup.client.cluster",
    "WorkerGroup": "flowgroup.model.variables",
    "deploy": "flowgroup.client.deploy",
    "get_dask_client": "flowgroup.client.inside",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowgroup' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
