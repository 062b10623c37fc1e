"""The page of the daemon that the chart installs, and a Dask dashboard through it, as `kubectl port-forward` shows them."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.e2e.conftest import Installed
from tests.e2e.test_operate import clusters, daemon_of, inside, outside
from tests.real.stack import wait_for
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
_UPGRADE = ("upgrade", "--reuse-values", "--wait", "--timeout", "3m")
_VALUES = "page.enabled={on},jobs.dashboard={on},page.existingSecret=page"


@pytest.fixture(scope="module")
def page(installed: Installed) -> Iterator[httpx.Client]:
    """A client that has the page's token; the installation has no page again afterwards."""
    token = uuid.uuid4().hex
    installed.main("create", "secret", "generic", "page", f"--from-literal=token={token}")
    chart = (installed.main.namespace, "helm/flowgroup")
    installed.helm(*_UPGRADE, *chart, "--set", _VALUES.format(on="true"))
    port = free_port()
    service = f"service/{daemon_of(installed)}"
    command = ["kubectl", "--kubeconfig", installed.config, "-n", installed.main.namespace, "port-forward", service]
    forward = subprocess.Popen([*command, f"{port}:8081"], stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, follow_redirects=False) as client:
            wait_for(lambda: _status(client) == 401, "the page asks for its token", 60)
            client.headers["authorization"] = f"Bearer {token}"
            yield client
    finally:
        forward.terminate()
        forward.wait(10)
        installed.helm(*_UPGRADE, *chart, "--set", _VALUES.format(on="false"))
        installed.main("delete", "secret", "page")


def _status(client: httpx.Client) -> int:
    with suppress(httpx.TransportError):
        return client.get("/status.json").status_code
    return 0


def test_a_cluster_and_its_dashboard_are_seen_through_the_service(installed: Installed, page: httpx.Client) -> None:
    name = f"deploy/{daemon_of(installed)}"
    check = ("flowgroup", "check", "--pool", "default", "--workers", "2")  # a cluster that was not there before
    installed.main("exec", name, "-c", "daemon", "--", *check)
    [cluster] = [
        one["name"]
        for one in inside(installed, "cluster", "list")
        if one["flow"] == "flowgroup-check" and [group["most"] for group in one["groups"]] == [2]
    ]
    told = page.get("/status.json").raise_for_status().json()
    assert cluster in {one["name"] for one in told["clusters"]}
    below = told["dashboards"][cluster].removesuffix("/status")
    assert page.get("/").headers["content-type"].startswith("text/html")
    seen = wait_for(lambda: _shown(page, f"{below}/info/main/workers.html"), "the scheduler shows its workers", 60)
    assert f"{cluster}-" in seen
    assert "sandbox" in page.get(f"{below}/info/main/workers.html").headers["content-security-policy"]
    assert page.get(f"/dashboards/{cluster}/{'0' * 32}/info/main/workers.html").status_code == 404
    assert outside(installed, "cluster", "reset", cluster).returncode == 0  # its node is small
    wait_for(lambda: cluster not in clusters(installed), "the cluster goes", 180)


def _shown(page: httpx.Client, path: str) -> str:
    answer = page.get(path)
    return answer.text if answer.status_code == 200 else ""
