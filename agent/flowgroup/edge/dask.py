"""What every backend tells Dask's processes."""

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
