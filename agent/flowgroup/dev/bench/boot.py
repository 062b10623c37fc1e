"""
Where the time of a run goes that has to have its cluster made: by the daemon's log and, to whole seconds, by its pods' status.
"""

from typing import Any

from flowgroup.dev.bench.installed import Installed
from flowgroup.dev.bench.runs import seconds
from flowgroup.edge.kubernetes.names import CLUSTER, ROLE
from flowgroup.errors import Permanent

FIRST_TASK = "9 first task"


def stages(there: Installed, run: str, at: dict[str, float]) -> dict[str, float]:
    """
    Seconds from the run's creation to each step, in their order. `at` are the moments that the API and the run itself know:
    `created`, `Running`, `first task`.
    """
    said = _said(there.daemon_log(), run)
    begun = _containers(there, said["cluster"])
    found = {
        "1 claimed": said["run_claimed"],
        "2 asked of Kubernetes": said["cluster_make"],
        "3 driver's container started": begun.get("driver"),
        "4 scheduler's container started": begun.get("scheduler"),
        "5 driver has dialled": said["driver_connected"],
        "6 first worker's container started": begun.get("worker"),
        "7 ready: worker there, versions compared": said["run_placed"],
        "8 Running": at["Running"],
        FIRST_TASK: at["first task"],
    }
    return {step: moment - at["created"] for step, moment in found.items() if moment is not None}


def _said(log: list[dict[str, Any]], run: str) -> dict[str, Any]:
    """When the daemon said what of this run and its cluster, and which cluster it is."""
    of_run = {line["event"]: line for line in log if line.get("run") == run}
    if "run_placed" not in of_run:
        raise Permanent(f"the daemon's log does not say where run {run} was placed")
    cluster = of_run["run_placed"]["cluster"]
    of_cluster = {line["event"]: line for line in log if line.get("cluster") == cluster and "run" not in line}
    lines = {**of_cluster, **of_run}
    wanted = ("run_claimed", "cluster_make", "driver_connected", "run_placed")
    return {"cluster": cluster, **{event: seconds(lines[event]["timestamp"]) for event in wanted}}


def _containers(there: Installed, cluster: str) -> dict[str, float]:
    """When the first container of each role was started."""
    begun: dict[str, float] = {}
    for pod in there.listed("pods", there.jobs):
        labels = pod["metadata"].get("labels", {})
        states = [entry["state"].get("running", {}) for entry in pod["status"].get("containerStatuses", [])]
        for state in states if labels.get(CLUSTER) == cluster else ():
            if started := state.get("startedAt"):
                role = labels.get(ROLE, "")
                begun[role] = min(begun.get(role, seconds(started)), seconds(started))
    return begun
