"""Two daemons for a pool: what the chart makes for them to take turns, and that it makes none of it for one alone."""

from typing import Any

import pytest

from tests.chart.conftest import CHART, Object, objects

_STAND_BY = str(CHART / "ci" / "stand-by-values.yaml")
_MINIMAL = str(CHART / "ci" / "minimal-values.yaml")
_SERVED = "flowgroup.dev/served"


def of(made: list[Object], kind: str) -> list[Object]:
    return [one for one in made if one["kind"] == kind and "-daemon" in one["metadata"]["name"]]


def env(deployment: Object) -> dict[str, Any]:
    given = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry.get("value") for entry in given}


@pytest.fixture
def made() -> list[Object]:
    return objects("-f", _STAND_BY)


def test_they_are_told_to_and_know_each_others_runs(made: list[Object]) -> None:
    daemons = of(made, "Deployment")
    assert [one["spec"]["replicas"] for one in daemons] == [2, 2]
    for one in daemons:
        said = env(one)
        assert said["FLOWGROUP_STAND_BY"] == "true"
        assert said["FLOWGROUP_NAME"]
        assert said["FLOWGROUP_KUBERNETES_LEASE"] == one["metadata"]["name"]
        assert one["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }


def test_each_pools_daemons_may_take_their_own_lease_and_no_other(made: list[Object]) -> None:
    roles = {one["metadata"]["name"]: one for one in of(made, "Role") if one["metadata"]["namespace"] == "fg"}
    bound = {one["metadata"]["name"]: one for one in of(made, "RoleBinding") if one["metadata"]["namespace"] == "fg"}
    accounts = {
        one["spec"]["template"]["spec"]["serviceAccountName"]: env(one)["FLOWGROUP_KUBERNETES_LEASE"]
        for one in of(made, "Deployment")
    }
    assert roles.keys() == bound.keys() == accounts.keys()
    for account, lease in accounts.items():
        assert bound[account]["roleRef"]["name"] == account
        assert [subject["name"] for subject in bound[account]["subjects"]] == [account]
        making, taking = roles[account]["rules"]
        assert making == {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}
        assert taking["resourceNames"] == [lease]
        assert taking["verbs"] == ["get", "update"]


def test_they_have_no_volume_that_one_node_alone_can_have(made: list[Object]) -> None:
    assert not of(made, "PersistentVolumeClaim")
    for one in of(made, "Deployment"):
        (home,) = [volume for volume in one["spec"]["template"]["spec"]["volumes"] if volume["name"] == "home"]
        assert home == {"name": "home", "emptyDir": {}}


def test_a_disruption_takes_one_and_those_of_a_pool_are_on_different_nodes(made: list[Object]) -> None:
    (budget,) = of(made, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    for one in of(made, "Deployment"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        (spread,) = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
        assert spread["labelSelector"]["matchLabels"][_SERVED] == labels[_SERVED]


def test_drivers_are_not_led_to_one_whose_node_is_gone(made: list[Object]) -> None:
    assert [one["spec"]["publishNotReadyAddresses"] for one in of(made, "Service")] == [False, False]
    assert [one["spec"]["publishNotReadyAddresses"] for one in of(objects("-f", _MINIMAL), "Service")] == [True]


@pytest.mark.parametrize("replicas", [0, 1])
def test_one_that_is_alone_has_its_volume_and_no_right_to_a_lease(replicas: int) -> None:
    made = objects("-f", _MINIMAL, "--set", f"daemon.replicas={replicas}")
    (daemon,) = of(made, "Deployment")
    assert (daemon["spec"]["replicas"], daemon["spec"]["strategy"]) == (replicas, {"type": "Recreate"})
    assert "FLOWGROUP_STAND_BY" not in env(daemon)
    assert "topologySpreadConstraints" not in daemon["spec"]["template"]["spec"]
    assert of(made, "PersistentVolumeClaim")
    assert not of(made, "PodDisruptionBudget")
    assert "leases" not in str(made)
