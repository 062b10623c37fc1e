"""What a cluster's death means for another try. Pure: `diagnose.py` has the words, and this the consequence."""

from flowgroup.edge.kubernetes import diagnose
from flowgroup.edge.kubernetes.extras import START_FAILED
from flowgroup.edge.kubernetes.level import Level
from flowgroup.edge.kubernetes.names import DRIVER, SCHEDULER
from flowgroup.edge.kubernetes.seen import Container, Pod
from flowgroup.model.causes import code_of
from flowgroup.model.clusters import Fate
from flowgroup.model.ids import ClusterName

_TAKEN = frozenset(
    {"Evicted", "Preempting", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "UnexpectedAdmissionError"}
)
_WAITS = ("Pending", "Running")
_ORDINARY = frozenset({"", "ContainerCreating", "PodInitializing"})


def of_cluster(name: ClusterName, level: Level) -> Fate:
    """A driver, or a DaskCluster, that is not there was deleted by somebody, or with its node."""
    driver, scheduler = level.pods.get((name, DRIVER)), level.pods.get((name, SCHEDULER))
    if name not in level.owners or driver is None:
        return "taken"
    fates = [_of_pod(pod, level.at) for pod in (driver, scheduler) if pod]
    if "taken" in fates:
        return "taken"
    return "certain" if "certain" in fates else "may-pass"


def _of_pod(pod: Pod, now: float) -> Fate:
    cause = diagnose.ended(pod, now=now)
    if cause and (pod.disruption or pod.reason in _TAKEN or pod.phase in _WAITS or code_of(cause) == "node-lost"):
        return "taken"
    if pulled := diagnose.not_pulled(pod):
        return "certain" if pulled[1] else "may-pass"
    if diagnose.crashes(pod) or any(map(_cannot_start, pod.containers)):
        return "certain"
    ends = [entry for entry in pod.containers if entry.state == "terminated"]
    is_certain = any(
        entry.exit_code == START_FAILED or entry.reason == "OOMKilled" or diagnose.lacking(entry.message)
        for entry in ends
    )
    return "certain" if is_certain else "may-pass"


def _cannot_start(entry: Container) -> bool:
    return entry.state == "waiting" and entry.reason not in _ORDINARY
