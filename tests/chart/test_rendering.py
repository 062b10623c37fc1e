"""What the chart renders to, for every values file of its `ci` folder."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from flowgroup import cli
from flowgroup.edge.kubernetes import names
from flowgroup.edge.kubernetes.sizes import Sizes
from flowgroup.settings import Settings
from tests.chart.conftest import CHART, CI_VALUES, Object, containers, helm, objects, pod_specs, rendered

_CLUSTER_WIDE = {"Namespace"}
_SEVERAL = str(CHART / "ci" / "several-pools-values.yaml")
_MINIMAL = str(CHART / "ci" / "minimal-values.yaml")
_CLOUD = str(CHART / "ci" / "cloud-values.yaml")
_EVERYTHING = str(CHART / "ci" / "everything-values.yaml")


def test_helm_lint_has_no_complaint(ci_values: Path) -> None:
    done = helm("lint", "--strict", "--kube-version", "1.34.0", str(CHART), "-f", str(ci_values))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_object_says_where_it_is_and_whose(made: list[Object]) -> None:
    for one in made:
        metadata = one["metadata"]
        assert (one["kind"] in _CLUSTER_WIDE) != ("namespace" in metadata), metadata["name"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == "fg"
        assert len(metadata["name"]) <= 63
    keys = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in made]
    assert len(keys) == len(set(keys))


def test_nothing_is_random(ci_values: Path) -> None:
    first = rendered("-f", str(ci_values)).stdout
    assert (
        helm("template", "fg", str(CHART), "-n", "fg", "--kube-version", "1.34.0", "-f", str(ci_values)).stdout == first
    )


def test_every_pod_meets_restricted_and_more(made: list[Object]) -> None:
    for name, spec in pod_specs(made):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] >= 10000, name
        assert security["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert spec["enableServiceLinks"] is False and "automountServiceAccountToken" in spec, name
        assert all("hostPath" not in volume for volume in spec["volumes"]), name
        for container in containers(spec):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, container["name"]
            assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
            if container["image"].find("flowgroup") >= 0:
                assert own["readOnlyRootFilesystem"] is True, container["name"]
                assert container["resources"]["requests"], container["name"]


def test_only_who_asks_kubernetes_has_a_token(made: list[Object]) -> None:
    with_token = {name for name, spec in pod_specs(made) if spec["automountServiceAccountToken"]}
    assert all(any(part in name for part in ("-daemon-", "-certs", "-janitor")) for name in with_token)
    assert all(one["automountServiceAccountToken"] is False for one in made if one["kind"] == "ServiceAccount")


def test_no_variable_is_named_twice(made: list[Object]) -> None:
    for name, spec in pod_specs(made):
        for container in containers(spec):
            given = [entry["name"] for entry in container.get("env", [])]
            assert len(given) == len(set(given)), name


def test_a_secret_never_has_data(made: list[Object]) -> None:
    assert all("data" not in one and "stringData" not in one for one in made if one["kind"] == "Secret")


def test_volumes_and_mounts_belong_together(made: list[Object]) -> None:
    for name, spec in pod_specs(made):
        claimed = {"home"} if name.startswith("StatefulSet") else set()
        there = {volume["name"] for volume in spec["volumes"]}
        mounted = {mount["name"] for one in containers(spec) for mount in one.get("volumeMounts", [])}
        assert there <= mounted <= there | claimed, name


def test_every_command_is_one_of_ours(made: list[Object]) -> None:
    parser = cli.parser()
    for _, spec in pod_specs(made):
        for container in containers(spec):
            if "flowgroup-agent" in container["image"]:
                parser.parse_args([str(arg) for arg in container["args"]])


def test_the_daemon_and_the_relay_understand_their_variables(
    made: list[Object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, spec in pod_specs(made):
        if not name.startswith(("Deployment", "StatefulSet")):
            continue
        with monkeypatch.context() as environment:
            for entry in spec["containers"][0]["env"]:
                environment.setenv(entry["name"], entry.get("value", "7"))
            if "PREFECT_CLIENT_CUSTOM_HEADERS" in {entry["name"] for entry in spec["containers"][0]["env"]}:
                environment.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", "{}")
            config = [one for one in made if one["kind"] == "ConfigMap" and "flowgroup.toml" in one.get("data", {})]
            if config:
                (tmp_path / "flowgroup.toml").write_text(config[0]["data"]["flowgroup.toml"])
                environment.setenv("FLOWGROUP_CONFIG", str(tmp_path / "flowgroup.toml"))
            settings = Settings.read()
        if name.startswith("Deployment"):
            assert settings.daemon.backend == "kubernetes"
            assert settings.kubernetes.namespace and settings.kubernetes.ca_config_map == _ca(made)
        else:
            assert settings.relay.tls_cert and settings.relay.control_key_file


def _ca(made: list[Object]) -> str:
    return next(one["metadata"]["name"] for one in made if one["kind"] == "ConfigMap" and "data" not in one)


def test_the_environment_is_stronger_than_the_config_and_extra_ones_than_the_charts(tmp_path: Path) -> None:
    daemon = next(one for one in objects("-f", _EVERYTHING) if one["kind"] == "Deployment")
    given = {entry["name"]: entry for entry in daemon["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert given["FLOWGROUP_LOG_LEVEL"]["value"] == "debug"
    assert given["FLOWGROUP_NAME"]["value"] == "west.fg.fg"


def test_the_sizes_are_ones_that_the_daemon_reads(made: list[Object], tmp_path: Path) -> None:
    catalogue = next(one for one in made if one["kind"] == "ConfigMap" and "sizes.json" in one.get("data", {}))
    (tmp_path / "sizes.json").write_text(catalogue["data"]["sizes.json"])
    Sizes.read(tmp_path / "sizes.json")


def test_policies_let_in_the_pods_that_the_daemon_makes() -> None:
    policies = [one for one in objects("-f", _SEVERAL) if one["kind"] == "NetworkPolicy"]
    assert {one["metadata"]["name"] for one in policies} == {"fg-flowgroup-daemon", "fg-flowgroup-relay"}
    for policy in policies:
        peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"] if "namespaceSelector" in peer]
        assert [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers] == [
            "team-a",
            "team-b",
        ]
        for peer in peers:
            assert peer["podSelector"]["matchLabels"] == {names.MANAGED_BY: "flowgroup", names.ROLE: names.DRIVER}


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://x/api", 80),
        ("https://x/api", 443),
        ("https://x:8443/api", 8443),
        ("http://[fd00::1]:4200/api", 4200),
        ("https://[fd00::1]/api", 443),
    ],
)
def test_the_way_to_prefect_is_open_at_the_port_of_its_address(url: str, port: int) -> None:
    for policy in objects("-f", _MINIMAL, "--set", f"prefect.apiUrl={url}"):
        if policy["kind"] == "NetworkPolicy":
            assert any({"port": port, "protocol": "TCP"} in rule["ports"] for rule in policy["spec"]["egress"])


def test_each_pool_has_its_own_daemon_and_account_bound_in_its_namespace_only() -> None:
    made = objects("-f", _SEVERAL)
    daemons = [one for one in made if one["kind"] == "Deployment"]
    assert [_env(one)["FLOWGROUP_POOL"] for one in daemons] == ["cpu", "GPU jobs!", "more"]
    assert [_env(one)["FLOWGROUP_KUBERNETES_NAMESPACE"] for one in daemons] == ["team-a", "team-b", "team-b"]
    assert len({one["spec"]["template"]["spec"]["serviceAccountName"] for one in daemons}) == 3
    bound = {
        one["metadata"]["name"]: one["metadata"]["namespace"]
        for one in made
        if one["kind"] == "RoleBinding" and "-daemon-" in one["metadata"]["name"]
    }
    assert sorted(bound.values()) == ["team-a", "team-b", "team-b"]
    assert any(one["kind"] == "PodDisruptionBudget" for one in made)


def _env(deployment: Object) -> dict[str, Any]:
    given = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry.get("value") for entry in given}


def test_rights_are_exactly_these() -> None:
    """`tests/chart/golden/rbac.yaml`: whoever widens a right changes it there too, on purpose."""
    golden = Path(__file__).parent / "golden" / "rbac.yaml"
    found = {
        f"{one['metadata']['namespace']}/{one['metadata']['name']}": one["rules"]
        for one in objects("-f", _SEVERAL, "--set", "daemon.replicas=2")
        if one["kind"] in ("Role", "ClusterRole")
    }
    text = yaml.safe_dump(found, sort_keys=True)
    if not golden.exists():
        golden.write_text(text)
    assert yaml.safe_load(golden.read_text()) == found, f"if this is meant, remove {golden} and run the test again"


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name)
def test_no_right_is_for_all(values: Path) -> None:
    for one in objects("-f", str(values)):
        assert one["kind"] not in ("ClusterRole", "ClusterRoleBinding")
        if one["kind"] != "Role":
            continue
        for rule in one["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            assert not {"pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"])
            if "secrets" in rule["resources"] and not rule.get("resourceNames"):
                assert set(rule["verbs"]) <= {"create", "delete"}


def test_a_janitor_looks_after_every_pools_namespace() -> None:
    made = objects("-f", _SEVERAL)
    (job,) = [one for one in made if one["kind"] == "CronJob" and one["metadata"]["name"] == "fg-flowgroup-janitor"]
    args = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["janitor", "--after-s=1800", "--namespace=team-a", "--namespace=team-b"]
    assert "janitor" not in str(objects("-f", _MINIMAL, "--set", "janitor.enabled=false"))


def test_a_service_monitor_is_made_when_it_is_wanted_and_finds_the_daemons() -> None:
    assert not any(one["kind"] == "ServiceMonitor" for one in objects("-f", _MINIMAL))
    made = objects("-f", _SEVERAL, "--set", "metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.interval=30s")
    (monitor,) = [one for one in made if one["kind"] == "ServiceMonitor"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "health", "path": "/metrics", "interval": "30s"}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [one for one in made if one["kind"] == "Service" and wanted <= one["metadata"]["labels"].items()]
    assert len(found) == 3
    assert all("health" in [port["name"] for port in one["spec"]["ports"]] for one in found)


def test_a_pod_monitor_finds_the_relays_at_a_port_that_only_who_may_read_metrics_reaches() -> None:
    peer = "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus"
    made = objects("-f", _MINIMAL, "--set", f"metrics.podMonitor.enabled=true,relay.replicas=2,{peer}")
    (monitor,) = [one for one in made if one["kind"] == "PodMonitor"]
    (relay,) = _relays(made, "StatefulSet")
    pod = relay["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (container,) = pod["spec"]["containers"]
    (port,) = [one["containerPort"] for one in container["ports"] if one["name"] == endpoint["port"]]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert given["FLOWGROUP_RELAY_METRICS_PORT"] == str(port) == "8080"
    (policy,) = _relays(made, "NetworkPolicy")
    reached = [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"] if "prometheus" in str(rule["from"])]
    assert reached == [port]


def test_the_page_is_there_only_where_it_is_wanted_and_behind_a_token_of_the_users() -> None:
    assert "8081" not in rendered("-f", _MINIMAL).stdout
    assert "page.existingSecret" in rendered("-f", _MINIMAL, "--set", "page.enabled=true").stderr
    made = objects("-f", _MINIMAL, "--set", "page.enabled=true,page.existingSecret=word")
    daemon = next(one for one in made if one["kind"] == "Deployment")
    pod = daemon["spec"]["template"]["spec"]
    told = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    [mount] = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "page"]
    assert told["FLOWGROUP_PAGE_TOKEN_FILE"] == f"{mount['mountPath']}/token"
    assert told["FLOWGROUP_PAGE_URL"] == "http://fg-flowgroup-daemon-default.fg.svc:8081"
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports["page"] == int(told["FLOWGROUP_PAGE_PORT"] or 0)
    [policy] = [one for one in made if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-daemon")]
    assert 8081 not in [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]], "open to all"
    more = [one for one in objects("-f", _EVERYTHING) if one["kind"] == "NetworkPolicy"]
    opened = {
        one["metadata"]["name"]: rule["from"]
        for one in more
        for rule in one["spec"]["ingress"]
        if {"port": 8081, "protocol": "TCP"} in rule.get("ports", [])
    }
    assert opened == {"fg-daemon": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]}


def test_the_daemon_reaches_schedulers_only_for_the_dashboards_that_its_page_leads_to() -> None:
    page = "page.enabled=true,page.existingSecret=word"
    for said in ("jobs.dashboard=true", page):
        assert 8787 not in _reached(objects("-f", _MINIMAL, "--set", said)), said
    made = objects("-f", _MINIMAL, "--set", f"{page},jobs.dashboard=true")
    [rule] = _reached(made)[8787]
    assert rule["podSelector"]["matchLabels"] == {names.MANAGED_BY: "flowgroup", names.ROLE: names.SCHEDULER}
    [daemon] = [one for one in made if one["kind"] == "Deployment"]
    told = {entry["name"]: entry.get("value") for entry in containers(daemon["spec"]["template"]["spec"])[0]["env"]}
    assert told["FLOWGROUP_DASHBOARDS"] == "true"


def _reached(made: list[Object]) -> dict[int, list[Any]]:
    """What the daemon may reach, by port."""
    [policy] = [one for one in made if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-daemon")]
    return {port["port"]: rule.get("to", []) for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_alerts_are_the_files_without_those_that_are_not_wanted() -> None:
    assert not any(one["kind"] == "PrometheusRule" for one in objects("-f", _MINIMAL))
    (rule,) = [one for one in objects("-f", _EVERYTHING) if one["kind"] == "PrometheusRule"]
    wanted = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    found = {one["alert"]: one for group in rule["spec"]["groups"] for one in group["rules"]}
    expected = {one["alert"]: one for group in wanted for one in group["rules"]}
    del expected["FlowgroupSlotsExhausted"]
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert one["expr"] == expected[name]["expr"]
        assert one["annotations"]["runbook_url"] == f"https://wiki.example.com/flowgroup/{name}.md"
        assert one["annotations"]["summary"] == expected[name]["annotations"]["summary"]


def test_the_dashboard_is_in_a_config_map_that_grafana_finds() -> None:
    (made,) = [one for one in objects("-f", _EVERYTHING) if "flowgroup.json" in one.get("data", {})]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["data"]["flowgroup.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_the_token_is_a_file_that_may_be_replaced_or_a_variable_where_that_is_wanted() -> None:
    auth = "prefect.auth.authStringKey=word,prefect.auth.mounted"
    for mounted in (True, False):
        made = objects("-f", _EVERYTHING, "--set", f"{auth}={str(mounted).lower()}")
        specs = [spec for name, spec in pod_specs(made) if name.startswith(("Deployment", "StatefulSet"))]
        assert len(specs) >= 2
        for spec in specs:
            given = {entry["name"]: entry for entry in spec["containers"][0]["env"]}
            files = {volume["name"]: volume.get("secret") for volume in spec["volumes"]}.get("prefect")
            mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
            for name, key in (("PREFECT_API_KEY", "key"), ("PREFECT_API_AUTH_STRING", "word")):
                assert (f"{name}_FILE" in given, name in given) == (mounted, not mounted)
                if mounted:
                    assert given[f"{name}_FILE"]["value"] == f"{mounts['prefect']}/{key}"
                    assert files and files["secretName"] == "prefect" and {"key": key, "path": key} in files["items"]
                else:
                    assert given[name]["valueFrom"]["secretKeyRef"] == {"name": "prefect", "key": key}
            assert (files is not None) == mounted
            assert "valueFrom" in given["PREFECT_CLIENT_CUSTOM_HEADERS"]
    (hello,) = [spec for name, spec in pod_specs(objects("-f", _CLOUD)) if name.startswith("Pod/")]
    assert {entry["name"] for entry in hello["containers"][0]["env"]} >= {"PREFECT_API_KEY"}  # Prefect's own client


_THREE = ("-f", _MINIMAL, "--set", "relay.replicas=3")


def _relays(made: list[Object], kind: str) -> list[Object]:
    component = "app.kubernetes.io/component"
    return [one for one in made if one["kind"] == kind and one["metadata"]["labels"][component] == "relay"]


def _relay_addresses(made: list[Object]) -> list[str]:
    (daemon,) = [one for one in made if one["kind"] == "Deployment"]
    return str(_env(daemon)["FLOWGROUP_KUBERNETES_RELAY_ADDRESS"]).split(",")


def test_a_relay_that_is_alone_has_the_names_that_it_always_had() -> None:
    made = objects("-f", _MINIMAL)
    assert [one["metadata"]["name"] for one in _relays(made, "Service")] == ["fg-flowgroup-relay"]
    assert _relay_addresses(made) == ["https://fg-flowgroup-relay.fg.svc:4280"]
    assert _hosts_of_relays(made) == [
        f"fg-flowgroup-relay{more}" for more in ("", ".fg", ".fg.svc", ".fg.svc.cluster.local")
    ]
    (relay,) = _relays(made, "StatefulSet")
    assert "topologySpreadConstraints" not in relay["spec"]["template"]["spec"]
    assert not _relays(made, "PodDisruptionBudget")


def test_each_of_several_relays_has_a_service_that_finds_its_pod_alone() -> None:
    made = objects(*_THREE)
    (relay,) = _relays(made, "StatefulSet")
    assert (relay["spec"]["replicas"], relay["spec"]["podManagementPolicy"]) == (3, "Parallel")
    services = {one["metadata"]["name"]: one["spec"] for one in _relays(made, "Service")}
    name = relay["metadata"]["name"]
    assert relay["spec"]["serviceName"] == name
    assert list(services) == [name, f"{name}-1", f"{name}-2"]
    labels = relay["spec"]["template"]["metadata"]["labels"]
    for number, service in enumerate(services.values()):
        assert service["selector"].items() <= (labels | {_POD_NAME: f"{name}-{number}"}).items()
        assert service["selector"][_POD_NAME] == f"{name}-{number}"
    assert _relay_addresses(made) == [f"https://{service}.fg.svc:4280" for service in services]
    (budget,) = _relays(made, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (spread,) = relay["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


_POD_NAME = "statefulset.kubernetes.io/pod-name"


def _hosts_of_relays(made: list[Object]) -> list[str]:
    """What the relays' certificate is for, whoever makes it."""
    if certificates := _relays_certificates(made):
        return list(certificates[0]["spec"]["dnsNames"])
    (job,) = [one for one in made if one["kind"] == "Job"]
    (said,) = [arg for arg in job["spec"]["template"]["spec"]["containers"][0]["args"] if "-relay-tls=" in arg]
    return str(said).partition("-relay-tls=")[2].split(",")


def _relays_certificates(made: list[Object]) -> list[Object]:
    return [one for one in made if one["kind"] == "Certificate" and one["metadata"]["name"].endswith("-relay-tls")]


@pytest.mark.parametrize("values", [_MINIMAL, str(CHART / "ci" / "cert-manager-values.yaml")])
def test_the_relays_certificate_is_for_the_address_of_each_also_of_one_that_drains(values: str) -> None:
    made = objects("-f", values, "--set", "relay.replicas=3,relay.draining=1")
    every = [urlsplit(address).hostname for address in _relay_addresses(objects(*_THREE))]
    assert _relay_addresses(made) == [f"https://{host}:4280" for host in every[:2]]
    assert set(every) <= set(_hosts_of_relays(made))
    assert len(_hosts_of_relays(made)) == 12
