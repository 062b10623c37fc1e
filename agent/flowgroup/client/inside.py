"""For flows that use Dask themselves."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import distributed


def get_dask_client() -> "distributed.Client":
    """
    A Dask client of the cluster of this run's flow group: in the flow, and in a task on a worker.

    The run owns the client: do not close it. Raises Refused where the group has no Dask workers, or outside of a run.
    """
    import distributed

    from flowgroup.errors import Refused
    from flowgroup.settings import dask_scheduler

    try:
        distributed.get_worker()
    except ValueError:
        address = dask_scheduler()
    else:
        return distributed.get_client()
    if address is None:
        raise Refused(
            "there is no Dask cluster here: deploy the flow with cluster=Cluster(workers=…), and call this inside of a run"
        )
    return _connected(address)


@cache
def _connected(address: str) -> "distributed.Client":
    import distributed

    return distributed.Client(address, set_as_default=False)
