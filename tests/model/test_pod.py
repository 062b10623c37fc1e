"""What a deployment may add to its cluster's pods, by tables."""

from typing import Any

import pytest

from flowgroup.errors import Refused
from flowgroup.model.ids import FlowId
from flowgroup.model.pod import PodExtras
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import base_job_template, parse

GOOD: dict[str, Any] = {
    "env_from": [{"secretRef": {"name": "db"}, "prefix": "DB_"}, {"configMapRef": {"name": "site.d"}}],
    "env_value_from": {"WORD": {"secretKeyRef": {"name": "db", "key": "pass.word"}}},
    "volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "shared"}},
        {"name": "conf", "configMap": {"name": "conf", "items": [{"key": "a", "path": "b/c"}]}},
        {"name": "certs", "secret": {"secretName": "certs"}},
        {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
    ],
    "volume_mounts": [
        {"name": "data", "mountPath": "/data", "readOnly": True},
        {"name": "data", "mountPath": "/tmp/more", "subPath": "more"},
        {"name": "conf", "mountPath": "/etc/app"},
        {"name": "certs", "mountPath": "/certs"},
        {"name": "cache", "mountPath": "/cache"},
    ],
    "service_account": "etl",
}


def mounted(path: str, **more: Any) -> dict[str, Any]:
    mount = {"name": "v", "mountPath": path, **more}
    return {"volumes": [{"name": "v", "emptyDir": {}}], "volume_mounts": [mount]}


def volume(**kind: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", **kind}], "volume_mounts": [{"name": "v", "mountPath": "/v"}]}


def test_what_was_said_is_kept_as_kubernetes_writes_it() -> None:
    extras = parse(GOOD).pod_extras()
    assert extras is not None
    assert extras.told() == GOOD
    assert PodExtras.model_validate_json(extras.model_dump_json()) == extras
    assert extras.objects() == [
        ("ConfigMap", "conf"),
        ("ConfigMap", "site.d"),
        ("PersistentVolumeClaim", "shared"),
        ("Secret", "certs"),
        ("Secret", "db"),
    ]


def test_only_who_says_something_of_it_gets_another_cluster() -> None:
    plain = ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool")
    assert plain.name == "etl-f3badff0829e"  # as it was before there was any of this
    assert plain.model_copy(update={"pod": parse(GOOD).pod_extras()}).name != plain.name
    assert parse({"env": {"A": "1"}}).pod_extras() is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"env": {"FLOWGROUP_HOME": "x"}}, "env: .*'FLOWGROUP_HOME' is set by flowgroup"),
        ({"env": {"PREFECT_API_KEY": "x"}}, "'PREFECT_API_KEY' is set by flowgroup"),
        ({"env": {"DASK_WORKER_NAME": "x"}}, "'DASK_WORKER_NAME' is set by flowgroup"),
        ({"env_value_from": {"PREFECT_API_URL": GOOD["env_value_from"]["WORD"]}}, "'PREFECT_API_URL' is set by"),
        ({"env_value_from": {"A-B": GOOD["env_value_from"]["WORD"]}}, "'A-B' is not a name"),
        ({"env_value_from": {"A": {}}}, "env_value_from.A: .*exactly one of secretKeyRef, configMapKeyRef"),
        ({"env_value_from": {"A": {"fieldRef": {"fieldPath": "spec.nodeName"}}}}, "env_value_from.A.fieldRef"),
        ({"env_value_from": {"A": {"secretKeyRef": {"name": "db"}}}}, "env_value_from.A.secretKeyRef.key"),
        ({"env_from": [{"prefix": "A"}]}, r"env_from.0: .*exactly one of secretRef, configMapRef"),
        ({"env_from": [{**GOOD["env_from"][0], **GOOD["env_from"][1]}]}, "exactly one of secretRef, configMapRef"),
        ({"env_from": [{"secretRef": {"name": "No Name"}}]}, "env_from.0.secretRef.name"),
        ({"env_from": [{"secretRef": {"name": "db"}, "prefix": "FLOWGROUP_"}]}, "set by flowgroup"),
        ({"env_from": [{"secretRef": {"name": "etl-0123456789ab"}}]}, "a name of a cluster's own Secret"),
        ({"env_from": {"secretRef": {"name": "db"}}}, "env_from"),
        (volume(hostPath={"path": "/"}), "volumes.0.hostPath"),
        (volume(projected={"sources": []}), "volumes.0.projected"),
        (volume(), "volumes.0: .*exactly one of persistentVolumeClaim, configMap, secret, emptyDir"),
        (volume(emptyDir={}, secret={"secretName": "s"}), "exactly one of"),
        (volume(secret={"secretName": "etl-0123456789ab-env"}), "a name of a cluster's own Secret"),
        (volume(emptyDir={"sizeLimit": "big"}), "volumes.0.emptyDir.sizeLimit"),
        ({"volumes": GOOD["volumes"][:1]}, "'data' is mounted nowhere"),
        ({"volume_mounts": GOOD["volume_mounts"][:1]}, "no volume 'data'"),
        (mounted("data"), "volume_mounts.0.mountPath"),
        (mounted("/"), "nothing can be mounted at '/'"),
        (mounted("/tmp/"), "nothing can be mounted at"),
        (mounted("/var/lib/flowgroup/x"), "nothing can be mounted at"),
        (mounted("/etc/flowgroup/secret"), "nothing can be mounted at"),
        (mounted("/data/../etc/flowgroup"), "no '..' in a path"),
        (mounted("/data", subPath="../.."), "volume_mounts.0.subPath"),
        (mounted("/data", subPath="a/../.."), "no '..' in a path"),
        ({**GOOD, "volume_mounts": [*GOOD["volume_mounts"], {"name": "data", "mountPath": "/data/"}]}, "'/data' is"),
        ({"service_account": "No one"}, "service_account"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(values)


def test_the_pools_form_has_it_in_kubernetes_own_spelling() -> None:
    definitions = base_job_template()["variables"]["definitions"]
    assert set(definitions["EnvFrom"]["properties"]) == {"secretRef", "configMapRef", "prefix"}
    assert set(definitions["Volume"]["properties"]) == {
        "name",
        "persistentVolumeClaim",
        "configMap",
        "secret",
        "emptyDir",
    }
