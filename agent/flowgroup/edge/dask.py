"""What every backend tells Dask's processes."""

import json
from collections.abc import Callable

from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup

# The scheduler keeps so many messages of every topic: what all tasks of a run logged lately.
SHORT_LOGS = {"DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "50"}
# What tasks log goes to the API; a second copy would fill the disk.
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR"}
# Whether it is there is asked twice a second by dialling it, and it would say each time that nobody spoke.
QUIET_DIALS = {
    "DASK_LOGGING": "{'distributed': 'info', 'distributed.client': 'warning', 'distributed.comm.tcp': 'warning'}"
}
# A worker's way to Prefect's API.
WORKER_PRELOAD = ("--preload", "flowgroup.driver.bridge")


def dask_resources(group: WorkerGroup | None) -> list[str]:
    """The option by which tasks that ask for resources find the workers of this group."""
    said = sorted(group.dask_resources.items()) if group else []
    return ["--resources", " ".join(f"{name}={amount:g}" for name, amount in said)] if said else []


def scaling(spec: ClusterSpec, prefix: Callable[[str], str], *, at: str, idle_s: float, written: str = "") -> list[str]:
    """
    The options by which a scheduler tells at `at` (HOST:PORT) how large each group of workers is to be.

    `prefix` gives what the names of a group's workers begin with, `written` is a file for the port.
    """
    resources = {group.name: group.dask_resources for group in spec.worker_groups}
    groups = [
        {
            "name": numbers.group,
            "prefix": prefix(numbers.group),
            "least": numbers.least,
            "most": numbers.most,
            "threads": spec.worker_threads,
            "resources": resources.get(numbers.group, {}),
        }
        for numbers in spec.groups
    ]
    return [
        *("--preload", "flowgroup.driver.scaling"),
        *("--flowgroup-groups", json.dumps(groups)),
        *("--flowgroup-levels", at),
        *("--flowgroup-written", written),
        *("--flowgroup-idle-s", f"{idle_s:g}"),
    ]
