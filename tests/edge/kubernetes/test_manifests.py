"""A cluster as objects of Kubernetes: pure, by tables."""

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from flowgroup.edge.kubernetes import manifests
from flowgroup.edge.kubernetes.names import Ground
from flowgroup.edge.kubernetes.sizes import Size, Sizes
from flowgroup.edge.kubernetes.takes import takes
from flowgroup.errors import Refused
from flowgroup.model.clusters import Takes
from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup
from flowgroup.settings import KubernetesSettings

SIZES = Sizes(
    {
        "large": Size(cpu="4", memory="16Gi", ephemeral_storage="20Gi", node_selector={"pool": "large"}),
        "gpu": Size(cpu="8", memory="64Gi", gpu=1, tolerations=({"key": "gpu", "operator": "Exists"},)),
        "spot": Size(node_selector={"spot": "true"}, tolerations=({"key": "spot", "operator": "Exists"},)),
    }
)
Json = dict[str, Any]


def ground(
    *,
    sizes: Sizes = SIZES,
    env: dict[str, str] | None = None,
    dashboard: Callable[[str], str] | None = None,
    **settings: Any,
) -> Ground:
    said = {
        "image": "runtime:1",
        "daemon_address": "tls://daemon.fg.svc:8443",
        "relay_address": "https://relay.fg.svc:4280",
        "ca_config_map": "flowgroup-ca",
        "service_account": "nobody",
    }
    return Ground("My pool", "jobs", KubernetesSettings(**{**said, **settings}), sizes, env or {}, dashboard=dashboard)


def spec(**fields: Any) -> ClusterSpec:
    return ClusterSpec(**{"flow_id": FlowId("f-1"), "flow_name": "My flow", "isolation": "pool", **fields})


def made(of: ClusterSpec, on: Ground | None = None) -> dict[str, Json]:
    """Every object by kind and name."""
    on = on or ground()
    whole = [manifests.dask_cluster(of, on), *manifests.owned(of, on, uid="u", secret="hush", key="k")]
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in whole}


def pods(of: ClusterSpec, on: Ground | None = None) -> dict[str, Json]:
    """Every PodSpec by what it is."""
    objects = made(of, on)
    cluster = objects[f"DaskCluster/{of.name}"]["spec"]
    groups = {
        name.removeprefix(f"DaskWorkerGroup/{of.name}-"): one["spec"]["worker"]["spec"]
        for name, one in objects.items()
        if name.startswith("DaskWorkerGroup/")
    }
    driver = objects[f"Pod/{of.name}-driver"]["spec"]
    return {"driver": driver, "scheduler": cluster["scheduler"]["spec"], "default": cluster["worker"]["spec"], **groups}


def env_of(pod: Json) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}


WHOLE = spec(workers=2, worker_groups=(WorkerGroup(name="gpu", count=2, size="gpu", dask_resources={"GPU": 1}),))


def test_the_same_spec_gives_the_same_objects_with_names_that_are_known_beforehand() -> None:
    assert made(WHOLE) == made(WHOLE)
    name = WHOLE.name
    assert list(made(WHOLE)) == [
        f"DaskCluster/{name}",
        f"Secret/{name}",
        f"NetworkPolicy/{name}",
        f"NetworkPolicy/{name}-driver",
        f"DaskWorkerGroup/{name}-gpu",
        f"ConfigMap/{name}",
        f"Pod/{name}-driver",
    ]


def test_everything_is_labelled_and_owned_by_the_dask_cluster() -> None:
    owner = {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "name": WHOLE.name, "uid": "u"}
    for name, one in made(WHOLE).items():
        metadata = one["metadata"]
        assert metadata["namespace"] == "jobs"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "flowgroup"
        assert metadata["labels"]["flowgroup.dev/pool"].startswith("my-pool-")
        assert metadata["labels"]["flowgroup.dev/cluster"] == WHOLE.name
        assert metadata["annotations"]["flowgroup.dev/pool-name"] == "My pool"
        assert metadata["annotations"]["flowgroup.dev/flow-name"] == "My flow"
        assert metadata.get("ownerReferences") == (None if name.startswith("DaskCluster") else [owner])


@pytest.mark.parametrize("which", ["driver", "scheduler", "default", "gpu"])
def test_every_pod_is_accepted_by_pod_security_restricted(which: str) -> None:
    pod = pods(WHOLE)[which]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["serviceAccountName"] == "nobody"
    mounts = {entry["mountPath"]: entry.get("readOnly", False) for entry in container["volumeMounts"]}
    assert {path for path, is_read_only in mounts.items() if not is_read_only} == {"/var/lib/flowgroup", "/tmp"}
    assert env_of(pod)["HOME"] == "/tmp"


def test_a_clusters_driver_dials_the_relay_of_its_spec_and_its_policy_lets_it() -> None:
    other = "https://relay-1.elsewhere.svc:4281"
    on = ground(relay_address=f"https://relay.fg.svc:4280, {other}")
    for of, address, namespace, port in [
        (WHOLE, "https://relay.fg.svc:4280", "fg", 4280),
        (WHOLE.model_copy(update={"relay": other}), other, "elsewhere", 4281),
    ]:
        objects = made(of, on)
        command = objects[f"Pod/{of.name}-driver"]["spec"]["containers"][0]["command"]
        assert command[command.index("--relay") + 1] == address
        egress = objects[f"NetworkPolicy/{of.name}-driver"]["spec"]["egress"]
        where = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        assert {"to": [{"namespaceSelector": where}], "ports": [{"port": port, "protocol": "TCP"}]} in egress
    assert objects[f"DaskCluster/{of.name}"]["metadata"]["annotations"]["flowgroup.dev/relay"] == other
    assert "flowgroup.dev/relay" not in str(made(WHOLE, on))


def test_the_drivers_command_is_as_agreed() -> None:
    command = pods(WHOLE)["driver"]["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "flowgroup.rooms", "driver"]
    name = WHOLE.name
    assert dict(zip(command[4::2], command[5::2], strict=True)) == {
        "--cluster": name,
        "--folder": f"/var/lib/flowgroup/{name}",
        "--spec": "/etc/flowgroup/cluster/spec.json",
        "--secret": "/etc/flowgroup/secret/secret",
        "--daemon": "tls://daemon.fg.svc:8443",
        "--relay": "https://relay.fg.svc:4280",
        "--storage": f"/var/lib/flowgroup/{name}/results",
        "--ca": "/etc/flowgroup/ca/ca.crt",
        "--scheduler": f"tcp://{name}-scheduler.jobs.svc:8786",
        "--levels": f"tcp://{name}-scheduler.jobs.svc:8788",
    }
    alone = pods(spec(), ground(ca_config_map=None))["driver"]
    assert "--scheduler" not in alone["containers"][0]["command"]
    assert "--ca" not in alone["containers"][0]["command"]
    assert alone["restartPolicy"] == "Never"


def test_what_a_driver_is_told_is_in_its_config_map_and_what_it_shows_in_its_secret_alone() -> None:
    objects = made(WHOLE)
    told = objects[f"ConfigMap/{WHOLE.name}"]["data"]["spec.json"]
    assert ClusterSpec.model_validate_json(told) == WHOLE
    assert base64.b64decode(objects.pop(f"Secret/{WHOLE.name}")["data"]["secret"]) == b"hush"
    assert "hush" not in json.dumps(objects)


def test_a_dask_cluster_never_ends_by_itself_and_has_the_ports_that_the_operator_looks_for() -> None:
    cluster = made(WHOLE)[f"DaskCluster/{WHOLE.name}"]["spec"]
    assert cluster["idleTimeout"] == 0
    ports = {port["name"]: port["port"] for port in cluster["scheduler"]["service"]["ports"]}
    assert ports == {"tcp-comm": 8786, "http-dashboard": 8787, "levels": 8788}
    assert cluster["worker"]["replicas"] == 2


def test_workers_are_one_process_a_pod_and_named_by_the_operator() -> None:
    of = spec(workers=2, worker_processes=3, worker_threads=4, worker_memory="2GiB")
    worker = made(of)[f"DaskCluster/{of.name}"]["spec"]["worker"]
    assert worker["replicas"] == 6
    command = worker["spec"]["containers"][0]["command"]
    said = dict(itertools.pairwise(command))
    assert said["--name"] == "$(DASK_WORKER_NAME)"
    assert (said["--nworkers"], said["--nthreads"], said["--memory-limit"]) == ("1", "4", str(2 * 1024**3))
    assert said["--preload"] == "flowgroup.driver.bridge"
    assert "--no-dashboard" in command
    assert worker["spec"]["containers"][0]["resources"]["limits"]["memory"] == str(2 * 1024**3)


def test_the_dashboard_is_there_only_if_asked_for() -> None:
    scheduler = pods(WHOLE)["scheduler"]["containers"][0]["command"]
    assert "--no-dashboard" in scheduler
    seen = ground(dashboard="/dashboards/{}/word".format)
    asked = pods(WHOLE, seen)["scheduler"]["containers"][0]["command"]
    assert asked[-4:] == ["--dashboard-address", ":8787", "--dashboard-prefix", f"/dashboards/{WHOLE.name}/word"]
    policy = made(WHOLE, seen)[f"NetworkPolicy/{WHOLE.name}-dashboard"]["spec"]
    assert policy["podSelector"]["matchLabels"]["dask.org/component"] == "scheduler"
    assert policy["ingress"] == [{"from": [in_namespace("fg")], "ports": [{"port": 8787, "protocol": "TCP"}]}]


@pytest.mark.parametrize("address", ["tls://daemon.example.com:8443", "tls://daemon.fg.svc:8443"])
def test_nobody_is_let_in_to_a_dashboard_that_is_not_there_or_by_a_daemon_that_cannot_be_named(address: str) -> None:
    dashboard = "/dashboards/{}/word".format if "example" in address else None
    assert not [
        name for name in made(WHOLE, ground(daemon_address=address, dashboard=dashboard)) if "dashboard" in name
    ]
    alone = WHOLE.model_copy(update={"workers": 0, "worker_groups": ()})
    assert not [name for name in made(alone, ground(dashboard="/{}".format)) if name.endswith("-dashboard")]


def test_without_workers_the_scheduler_is_a_process_that_does_nothing() -> None:
    scheduler = pods(spec())["scheduler"]["containers"][0]
    assert "distributed" not in " ".join(scheduler["command"])
    assert scheduler["resources"]["requests"] == {"cpu": "1m", "memory": str(16 * 1024**2)}


GPU = WorkerGroup(
    name="gpu",
    count=3,
    size="gpu",
    image="cuda:1",
    node_selector={"zone": "a"},
    tolerations=({"key": "mine"},),
    affinity={"nodeAffinity": {}},
    priority_class="high",
    resources={"example.com/fpga": 2},
    spot=True,
    dask_resources={"GPU": 1, "FPGA": 2},
)


def test_a_group_of_workers_is_what_its_size_its_place_and_its_words_say_together() -> None:
    of = spec(workers=1, worker_groups=(GPU,))
    group = made(of)[f"DaskWorkerGroup/{of.name}-gpu"]["spec"]
    assert (group["cluster"], group["worker"]["replicas"]) == (of.name, 3)
    pod = group["worker"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == "cuda:1"
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": str(64 * 1024**3)},
        "limits": {"cpu": "8", "memory": str(64 * 1024**3), "nvidia.com/gpu": "1", "example.com/fpga": "2"},
    }
    assert pod["nodeSelector"] == {"spot": "true", "zone": "a"}
    assert [entry["key"] for entry in pod["tolerations"]] == ["gpu", "spot", "mine"]
    assert (pod["affinity"], pod["priorityClassName"]) == ({"nodeAffinity": {}}, "high")
    command = container["command"]
    assert command[command.index("--resources") + 1] == "FPGA=2 GPU=1"
    assert "--resources" not in pods(of)["default"]["containers"][0]["command"]


def test_sizes_of_driver_scheduler_and_workers() -> None:
    found = pods(spec(workers=1, driver_size="large", scheduler_size="large", worker_size="large"))
    for pod in found.values():
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"] == {
            "cpu": "4",
            "memory": str(16 * 1024**3),
            "ephemeral-storage": str(20 * 1024**3),
        }
        assert pod["nodeSelector"] == {"pool": "large"}
    assert found["default"]["containers"][0]["command"].count(str(16 * 1024**3)) == 1


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
        ({"workers": 1, "worker_size": "huge"}, {}, "worker_size is 'huge'.*there are: gpu, large.*"),
        ({"driver_size": "huge"}, {}, "driver_size is 'huge'"),
        ({"scheduler_size": "spot"}, {}, "scheduler_size is 'spot'"),
        ({"worker_groups": (WorkerGroup(name="a", size="huge"),)}, {}, "worker_groups 'a' size is 'huge'"),
        ({"worker_spot": True}, {"sizes": Sizes()}, "worker_spot asks for spot nodes"),
        ({"worker_size": "x"}, {"sizes": Sizes()}, "there are: none"),
        ({}, {"image": None}, "FLOWGROUP_KUBERNETES_IMAGE"),
    ],
)
def test_what_cannot_be_is_refused_with_what_there_is(fields: Json, settings: Json, said: str) -> None:
    with pytest.raises(Refused, match=said):
        made(spec(**fields), ground(**settings))


def test_environments_are_plain_values_that_kubelet_leaves_as_they_are() -> None:
    of = spec(workers=1, env={"OMP_NUM_THREADS": "4", "DASK_X": "$(HOME)"})
    for which in ("driver", "default", "scheduler"):
        env = env_of(pods(of, ground(env={"FLOWGROUP_DRIVER_LEAN": "False"}))[which])
        assert (env["OMP_NUM_THREADS"], env["DASK_X"], env["FLOWGROUP_DRIVER_LEAN"]) == ("4", "$$(HOME)", "False")
    assert env_of(pods(spec(workers=1))["default"])["OMP_NUM_THREADS"] == "1"


def test_images_and_what_pulls_them() -> None:
    on = ground(image_pull_policy="Always", image_pull_secrets=("one", "two"))
    for which, pod in pods(spec(workers=1, image="mine:1"), on).items():
        container = pod["containers"][0]
        assert (container["image"], container["imagePullPolicy"]) == ("mine:1", "Always"), which
        assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert pods(spec())["driver"]["containers"][0]["image"] == "runtime:1"


def rules(policy: Json) -> list[Json]:
    egress: list[Json] = policy["spec"]["egress"]
    return egress


def in_namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def test_only_a_clusters_own_pods_reach_it_and_only_its_driver_reaches_daemon_and_relay() -> None:
    objects = made(WHOLE)
    whole, driver = (objects[f"NetworkPolicy/{WHOLE.name}{end}"] for end in ("", "-driver"))
    own = {"podSelector": {"matchLabels": {"flowgroup.dev/cluster": WHOLE.name}}}
    assert whole["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert whole["spec"]["podSelector"] == own["podSelector"]
    assert whole["spec"]["ingress"] == [{"from": [own]}]
    dns, inside = rules(whole)
    assert {port["port"] for port in dns["ports"]} == {53, 5353}
    assert inside == {"to": [own]}
    assert driver["spec"]["podSelector"]["matchLabels"]["flowgroup.dev/role"] == "driver"
    assert rules(driver) == [
        {"to": [in_namespace("fg")], "ports": [{"port": 8443, "protocol": "TCP"}]},
        {"to": [in_namespace("fg")], "ports": [{"port": 4280, "protocol": "TCP"}]},
    ]


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("10.0.0.0/8", {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}),
        (
            "10.1.2.3/32:443",
            {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]},
        ),
        ("10.1.2.3", {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}),
        ("fd00::/8", {"to": [{"ipBlock": {"cidr": "fd00::/8"}}]}),
        ("[fd00::]/8:443", {"to": [{"ipBlock": {"cidr": "fd00::/8"}}], "ports": [{"port": 443, "protocol": "TCP"}]}),
        ("namespace/minio", {"to": [in_namespace("minio")]}),
        ("namespace/minio:9000", {"to": [in_namespace("minio")], "ports": [{"port": 9000, "protocol": "TCP"}]}),
    ],
)
def test_what_a_setting_names_may_be_reached(said: str, rule: Json) -> None:
    objects = made(WHOLE, ground(egress=said, driver_egress=f"{said}, 1.1.1.1"))
    assert rules(objects[f"NetworkPolicy/{WHOLE.name}"])[2:] == [rule]
    assert rules(objects[f"NetworkPolicy/{WHOLE.name}-driver"])[2:] == [
        rule,
        {"to": [{"ipBlock": {"cidr": "1.1.1.1/32"}}]},
    ]


@pytest.mark.parametrize("said", ["everything", "10.0.0.0/99", "10.0.0.0/8:0", "10.0.0.0/8:http", "10.1.2.3/8"])
def test_a_way_that_cannot_be_read_is_refused(said: str) -> None:
    with pytest.raises(Refused, match="FLOWGROUP_KUBERNETES_EGRESS"):
        made(WHOLE, ground(egress=said))


@pytest.mark.parametrize(
    ("address", "to"),
    [
        ("tls://198.19.255.1:8443", [{"ipBlock": {"cidr": "198.19.255.1/32"}}]),
        ("tls://daemon.example.com:8443", None),
        ("tls://daemon.fg.svc.cluster.local:8443", [in_namespace("fg")]),
    ],
)
def test_a_daemon_elsewhere_is_reached_by_what_is_known_of_it(address: str, to: Any) -> None:
    driver = made(WHOLE, ground(daemon_address=address))[f"NetworkPolicy/{WHOLE.name}-driver"]
    assert rules(driver)[0].get("to") == to


def test_the_operator_reaches_the_scheduler_only_if_a_setting_says_so() -> None:
    policy = made(WHOLE, ground(operator_namespace="dask"))[f"NetworkPolicy/{WHOLE.name}-operator"]["spec"]
    assert policy["podSelector"]["matchLabels"]["dask.org/component"] == "scheduler"
    assert policy["ingress"][0]["from"] == [in_namespace("dask")]
    assert not [name for name in made(WHOLE, ground(network_policy=False)) if name.startswith("NetworkPolicy")]


def test_names_and_labels_fit_however_long_a_flows_name_is() -> None:
    of = spec(flow_name="9 " + "Ü long name " * 20, workers=1, worker_groups=(WorkerGroup(name="a" * 16),))
    assert len(of.name) <= 53  # the operator takes no longer one
    assert len(f"{of.name}-{'a' * 16}") <= 63
    for one in made(of).values():
        assert all(len(value) <= 63 for value in one["metadata"]["labels"].values())
        assert one["metadata"]["name"][0].isalpha()


@pytest.mark.parametrize(
    ("of", "took"),
    [
        ({}, Takes(pods=2, cpu=0.101)),
        ({"workers": 2, "worker_size": "large"}, Takes(pods=4, cpu=8.15)),
        ({"workers": 1, "workers_max": 5}, Takes(pods=7, cpu=0.65)),
        (
            {"worker_groups": (WorkerGroup(name="gpu", count=1, max=3, size="gpu"),), "driver_size": "large"},
            Takes(pods=5, cpu=28.05, gpu=3.0),
        ),
        (
            {"worker_groups": (WorkerGroup(name="amd", count=2, resources={"amd.com/gpu": 2}),)},
            Takes(pods=4, cpu=0.35, gpu=4.0),
        ),
    ],
)
def test_what_a_cluster_takes_is_what_its_pods_ask_for_when_it_is_largest(of: dict[str, Any], took: Takes) -> None:
    assert takes(spec(**of), ground()) == took
