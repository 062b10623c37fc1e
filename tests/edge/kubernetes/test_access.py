"""Where Kubernetes is and what it is shown: real files, and the real reader of kubeconfigs in its own process."""

import asyncio
import contextlib
import json
import ssl
import time
from pathlib import Path

import httpx
import pytest

from flowgroup.edge.kubernetes import access as access_room
from flowgroup.edge.kubernetes.access import access, of_the_pod
from flowgroup.edge.kubernetes.backend import kubernetes
from flowgroup.edge.kubernetes.client import PODS, Client
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.settings import Settings
from tests.fakes.ca import FakeCA

CONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443/", certificate-authority: %(ca)s}}]
users: [{name: u, user: {%(user)s}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: jobs}}]
current-context: x
"""


@pytest.fixture
def ca(tmp_path: Path) -> FakeCA:
    made = FakeCA(tmp_path / "ca")
    made.issue()
    return made


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "PREFECT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("user", ["token: hush", "certificate"])
def test_a_kubeconfig_is_read_with_token_or_certificate(
    ca: FakeCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str
) -> None:
    if user == "certificate":
        user = f"client-certificate: {ca.folder}/tls.crt, client-key: {ca.folder}/tls.key"
    file = tmp_path / "config"
    file.write_text(CONFIG % {"ca": ca.file, "user": user})
    monkeypatch.setenv("KUBECONFIG", str(file))
    found = access()
    assert (found.url, found.namespace) == ("https://10.0.0.1:6443", "jobs")
    assert found.token() == ("hush" if "hush" in user else "")
    assert [entry["subject"] for entry in found.tls.get_ca_certs()] == [((("commonName", "flowgroup tests"),),)]
    assert found.tls.verify_mode == ssl.CERT_REQUIRED


def test_a_program_that_a_kubeconfig_names_is_asked_and_sees_no_token_of_prefects(
    ca: FakeCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "prefects")
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    program = tmp_path / "ask"
    status = json.dumps({**credential, "status": {"token": "from-${PREFECT_API_KEY:-nobody}"}}).replace('"', '\\"')
    program.write_text(f'#!/bin/sh\necho "{status}"\n')
    program.chmod(0o755)
    said = f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {program}, interactiveMode: Never}}"
    file = tmp_path / "config"
    file.write_text(CONFIG % {"ca": ca.file, "user": said})
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert access().token() == "from-nobody"


@pytest.mark.parametrize("text", [None, "", "nonsense: [", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_cannot_be_read_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(Refused, match=r"no access to Kubernetes.*Set KUBECONFIG"):
        access()


def test_in_a_pod_the_service_account_is_used_and_its_token_read_again(
    ca: FakeCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "ca.crt").write_text(ca.file.read_text())
    (folder / "namespace").write_text("release\n")
    (folder / "token").write_text("one\n")
    found = of_the_pod("fd00::1", "443", folder)
    assert (found.url, found.namespace, found.token()) == ("https://[fd00::1]:443", "release", "one")
    (folder / "token").write_text("two")
    assert found.token() == "one"
    clock = time.monotonic
    monkeypatch.setattr(access_room.time, "monotonic", lambda: clock() + 61)
    assert found.token() == "two"
    (folder / "ca.crt").unlink()
    with pytest.raises(Refused, match="automountServiceAccountToken"):
        of_the_pod("10.0.0.1", "443", folder)


async def test_a_token_that_has_ended_is_renewed_once() -> None:
    shown: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers["authorization"])
        return httpx.Response(200 if shown[-1] == "Bearer new" else 401, json={"metadata": {}})

    tokens = iter(["new", "worse"])
    found = access_room.Access("https://k8s", ssl.create_default_context(), "jobs", lambda: "old", lambda: next(tokens))
    client = Client(found, transport=httpx.MockTransport(answer))
    assert await client.get(PODS, "x") == {"metadata": {}}
    with pytest.raises(Permanent, match="renew the kubeconfig"):
        await client.get(PODS, "x")
    assert shown == ["Bearer old", "Bearer new", "Bearer old", "Bearer worse"]
    await client.aclose()


async def test_connections_are_kept_however_many_calls_there_are_at_a_time() -> None:
    """To shake hands for each call took a quarter of the daemon's time where clusters were made."""
    met: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"metadata": {}}')
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        tls = ssl.create_default_context()
        client = Client(access_room.Access(f"http://127.0.0.1:{port}", tls, "jobs", lambda: "", lambda: ""))
        for _ in range(5):
            await asyncio.gather(*(client.get(PODS, f"{number}") for number in range(40)))
        await client.aclose()
        await asyncio.gather(*filter(None, met))
    assert len(met) <= 16


async def test_an_api_that_does_not_answer_is_transient() -> None:
    found = access_room.Access("https://127.0.0.1:1", ssl.create_default_context(), "jobs", lambda: "", lambda: "")
    client = Client(found)
    with pytest.raises(Transient, match=r"https://127\.0\.0\.1:1 does not answer"):
        await client.get(PODS, "x")
    await client.aclose()


NEEDED = {
    "FLOWGROUP_KUBERNETES_DAEMON_ADDRESS": "tls://d.ns.svc:8443",
    "FLOWGROUP_KUBERNETES_RELAY_ADDRESS": "https://r.ns.svc:4280",
    "FLOWGROUP_KUBERNETES_TLS_CERT": "/tls/tls.crt",
    "FLOWGROUP_KUBERNETES_TLS_KEY": "/tls/tls.key",
    "FLOWGROUP_RELAY_CONTROL_KEY_FILE": "key",
}


def _client() -> Client:
    found = access_room.Access("https://k8s", ssl.create_default_context(), "jobs", lambda: "", lambda: "")
    return Client(found, transport=httpx.MockTransport(lambda _: httpx.Response(500)))


def test_the_backend_stands_on_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("the-control-key-of-a-test\n")
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOWGROUP_KUBERNETES_IMAGE_PULL_SECRETS", "a, b")
    monkeypatch.setenv("FLOWGROUP_DRIVER_KEEP_ENV", "AWS_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    made = kubernetes(Settings.read({"pool": "p", "backend": "kubernetes"}), _client())
    assert made.relay_key == "the-control-key-of-a-test"
    assert made.listen.port == 8443  # type: ignore[union-attr]
    assert made.ground.settings.image_pull_secrets == ("a", "b")
    env = made.ground.driver_env
    assert env["AWS_REGION"] == "eu-1"
    assert "hush" not in str(env)
    assert env["FLOWGROUP_DRIVER_LEAN"] == "True"
    assert all(name.startswith(("FLOWGROUP_DRIVER_", "AWS_REGION")) for name in env)


@pytest.mark.parametrize("missing", NEEDED)
def test_a_setting_that_is_missing_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("the-control-key-of-a-test")
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(Refused, match=f"{missing} is not set"):
        kubernetes(Settings.read({"pool": "p"}), _client())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FLOWGROUP_KUBERNETES_EGRESS", "everywhere", "FLOWGROUP_KUBERNETES_EGRESS"),
        ("FLOWGROUP_KUBERNETES_SIZES", "none.json", "FLOWGROUP_KUBERNETES_SIZES"),
        ("FLOWGROUP_KUBERNETES_DAEMON_ADDRESS", "http://x", "'http://x' is no address"),
        ("FLOWGROUP_RELAY_CONTROL_KEY_FILE", "none", "FLOWGROUP_RELAY_CONTROL_KEY_FILE"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("the-control-key-of-a-test")
    for key, good in {**NEEDED, name: value}.items():
        monkeypatch.setenv(key, good)
    with pytest.raises(Refused, match=said):
        kubernetes(Settings.read({"pool": "p"}), _client())
