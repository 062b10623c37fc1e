"""What a cluster's death means for another try, and what a cluster takes."""

from typing import Any

import pytest

from flowgroup.edge.kubernetes import seen
from flowgroup.edge.kubernetes.fate import of_cluster
from flowgroup.edge.kubernetes.level import Level
from flowgroup.edge.kubernetes.names import CLUSTER, DRIVER, ROLE, SCHEDULER
from flowgroup.model.clusters import Fate
from flowgroup.model.ids import ClusterName

NAME = ClusterName("etl-1")
OWNER = seen.owner({"metadata": {"name": NAME, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}})


def pod(role: str = DRIVER, *, leaves_at: str | None = None, **status: Any) -> seen.Pod:
    labels = {CLUSTER: NAME, ROLE: role}
    return seen.pod({"metadata": {"name": role, "labels": labels, "deletionTimestamp": leaves_at}, "status": status})


def ended(reason: str = "Error", code: int = 1, message: str = "") -> dict[str, Any]:
    state = {"terminated": {"reason": reason, "exitCode": code, "message": message}}
    return {"phase": "Failed", "containerStatuses": [{"name": "driver", "state": state}]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "driver", "state": state}]}


def unknown() -> dict[str, Any]:
    """What kubelet says of a container whose node came back without it."""
    return ended("ContainerStatusUnknown", 137, "The container could not be located when the pod was terminated")


@pytest.mark.parametrize(
    ("pods", "fate"),
    [
        ([], "taken"),
        ([pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")], "taken"),
        ([pod(phase="Failed", conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "x"}])], "taken"),
        ([pod(phase="Running", leaves_at="2026-01-01T00:00:00Z")], "taken"),
        ([pod(**ended())], "may-pass"),
        ([pod(**ended()), pod(SCHEDULER, **waiting("ContainerCreating"))], "may-pass"),
        ([pod(**ended("OOMKilled", 137))], "certain"),
        ([pod(**ended(code=79))], "certain"),
        ([pod(**ended(message="ModuleNotFoundError: No module named 'flowgroup'"))], "certain"),
        ([pod(**waiting("InvalidImageName"))], "certain"),
        ([pod(**waiting("ImagePullBackOff", "dial tcp: i/o timeout"))], "may-pass"),
        ([pod(**unknown())], "taken"),
        ([pod(**waiting("CreateContainerConfigError"))], "certain"),
    ],
)
def test_what_took_a_cluster_away_is_told_from_what_would_end_it_again(pods: list[seen.Pod], fate: Fate) -> None:
    level = Level(at=2e9, owners={NAME: OWNER}, pods={(NAME, one.role): one for one in pods})
    assert of_cluster(NAME, level) == fate


def test_a_cluster_that_is_not_there_any_more_was_taken_away() -> None:
    assert of_cluster(NAME, Level(at=2e9)) == "taken"
