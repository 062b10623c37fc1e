"""The chart taken away again: by its name the last file of this folder."""

import pytest

from tests.e2e.conftest import Installed
from tests.edge.kubernetes.real import Kubectl
from tests.real.stack import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_an_uninstall_leaves_nothing_in_its_namespace(installed: Installed) -> None:
    """The namespace of clusters stays, with the clusters, and what the release never made."""
    installed.helm("uninstall", installed.main.namespace, "--wait")
    kubectl = installed.main
    kubectl("delete", "job", "look", "--ignore-not-found")
    kubectl("delete", "pod", "-l", "app.kubernetes.io/component=test", "--ignore-not-found")
    kinds = "secrets,configmaps,serviceaccounts,roles,rolebindings,cronjobs,jobs,services"
    wait_for(lambda: kubectl.names(kinds) == ["secret/store"], "what a CronJob had made goes after it", 60)
    assert installed.jobs.names("serviceaccounts,configmaps,roles,rolebindings") == _of_clusters(installed.jobs)


def _of_clusters(kubectl: Kubectl) -> list[str]:
    return [f"configmap/{name.rpartition('/')[2]}" for name in kubectl.names("daskclusters")]
