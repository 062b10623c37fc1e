"""Where people see a cluster's Dask dashboard through the daemon."""

import hashlib
import hmac

from flowgroup.model.ids import ClusterName

PREFIX = "/dashboards"
_LETTERS = 32


def path(key: str, cluster: ClusterName) -> str:
    """
    The path below which the daemon's page has the cluster's dashboard, and the scheduler serves it: `/dashboards/NAME/WORD`.

    The word is made from `key`: whoever knows it may see this dashboard, and no other. The cluster's own code knows it.
    """
    word = hmac.new(key.encode(), f"dashboard\0{cluster}".encode(), hashlib.sha256).hexdigest()
    return f"{PREFIX}/{cluster}/{word[:_LETTERS]}"
