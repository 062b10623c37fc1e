"""
The chart as `deploy/up.sh` installs it, on a real Kubernetes: the built images, the Dask operator from its own chart,
an S3 server, a Prefect server, an example flow; every namespace enforces Pod Security `restricted`.
"""

import re
import uuid

import pytest
import yaml

from tests.chart.conftest import ROOT
from tests.e2e.conftest import Installed
from tests.edge.kubernetes.real import is_shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_example_flow_has_run_on_its_own_cluster(installed: Installed) -> None:
    assert "Completed" in installed.said
    (cluster,) = installed.jobs.names("daskclusters")
    assert cluster.rpartition("/")[2].startswith("report-")


def test_every_pod_runs_as_it_should(installed: Installed) -> None:
    pods = installed.main.json("get", "pods")["items"] + installed.jobs.json("get", "pods")["items"]
    assert {pod["status"]["phase"] for pod in pods} <= {"Running", "Succeeded"}
    names = " ".join(pod["metadata"]["name"] for pod in pods)
    assert all(part in names for part in ("-daemon-", "-relay-0", "-certs-", "-driver", "-scheduler", "-worker"))


def test_the_daemons_rights_are_the_golden_ones(installed: Installed) -> None:
    account = f"system:serviceaccount:{installed.main.namespace}:{installed.main.namespace}-daemon-default"
    golden = yaml.safe_load((ROOT / "tests" / "chart" / "golden" / "rbac.yaml").read_text())[
        "team-a/fg-flowgroup-daemon"
    ]
    wanted = {
        (resource if not group else f"{resource}.{group}", " ".join(sorted(rule["verbs"])))
        for rule in golden
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    listed = installed.jobs("auth", "can-i", "--list", "--no-headers", f"--as={account}")
    found = {_right(line) for line in listed.splitlines() if not line.startswith((" ", "self"))}
    assert found == wanted
    listed = installed.main("auth", "can-i", "--list", "--no-headers", f"--as={account}")
    assert {_right(line)[0] for line in listed.splitlines() if not line.startswith((" ", "self"))} == set()


def _right(line: str) -> tuple[str, str]:
    resource, _, rest = line.partition(" ")
    verbs = re.findall(r"\[([^]]*)\]", rest)[-1]
    return resource, " ".join(sorted(verbs.split()))


def test_pods_of_clusters_have_no_token_and_no_rights(installed: Installed) -> None:
    for pod in installed.jobs.json("get", "pods")["items"]:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not any("projected" in volume for volume in pod["spec"].get("volumes", []))
    account = f"system:serviceaccount:{installed.jobs.namespace}:{installed.main.namespace}-cluster"
    listed = installed.jobs("auth", "can-i", "--list", "--no-headers", f"--as={account}")
    assert {_right(line)[0] for line in listed.splitlines() if not line.startswith((" ", "self"))} == set()


def test_helm_test_runs_a_hello_flow_through(installed: Installed) -> None:
    said = installed.helm("test", installed.main.namespace, "--logs", "--timeout", "5m")
    assert "the squares of 0 to 3 add up to 14" in said


def test_certificates_are_looked_at_and_kept(installed: Installed) -> None:
    kubectl = installed.main
    kubectl("create", "job", "look", f"--from=cronjob/{kubectl.namespace}-certs")
    kubectl("wait", "--for=condition=Complete", "job/look", "--timeout=90s")
    lines = kubectl("logs", "job/look").splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["kept"] * 4 + ["written"]


@pytest.mark.parametrize(
    ("labels", "is_let_in"),
    [({}, False), ({"flowgroup.dev/role": "worker"}, False), ({"flowgroup.dev/role": "driver"}, True)],
)
def test_only_drivers_reach_the_daemon_and_the_relay(
    installed: Installed, labels: dict[str, str], is_let_in: bool
) -> None:
    if not is_shared(installed.config):
        pytest.skip("this cluster's network may not enforce NetworkPolicies")
    main = installed.main.namespace
    code = f"""
import socket, time
for address in [("{main}-relay.{main}.svc", 4280), ("{main}-daemon-default.{main}.svc", 8443)]:
    deadline = time.monotonic() + (30 if {is_let_in} else 6)
    while True:
        try:
            socket.create_connection(address, 2).close(); print("in"); break
        except OSError:
            if time.monotonic() > deadline:
                print("out"); break
"""
    driver = installed.jobs.json("get", "pods", "-l", "flowgroup.dev/role=driver")["items"][0]["spec"]["containers"][0]
    pod = f"knocks-{uuid.uuid4().hex[:6]}"
    container = {
        "name": "knocks",
        "image": driver["image"],
        "imagePullPolicy": driver["imagePullPolicy"],
        "command": ["python", "-c", code],
        "securityContext": driver["securityContext"],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    metadata = {"name": pod, "labels": {"app.kubernetes.io/managed-by": "flowgroup" if is_let_in else "me", **labels}}
    installed.jobs(
        "apply",
        "-f",
        "-",
        stdin=yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
    )
    installed.jobs("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{pod}", "--timeout=90s")
    assert installed.jobs("logs", pod).split() == (["in", "in"] if is_let_in else ["out", "out"])
    installed.jobs("delete", "pod", pod, "--wait=false")
