"""Secrets over Kubernetes' API: what is sent, and what its errors become."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from flowgroup.edge.certs import api
from flowgroup.errors import Permanent, Refused, Transient


@dataclass
class FakeKubernetes:
    """Objects by path. `refusals` are answers to give first, one a call."""

    objects: dict[str, dict] = field(default_factory=dict)
    refusals: list[int] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.refusals:
            return _status(self.refusals.pop(0), "you may not")
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path not in self.objects:
            return _status(404, "not found")
        if request.method == "PATCH":
            assert request.headers["content-type"] == "application/merge-patch+json"
            return self._patched(self.objects[path], body)
        return httpx.Response(200, json=self.objects[path])

    def _patched(self, there: dict, body: dict) -> httpx.Response:
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted and wanted != there["metadata"]["resourceVersion"]:
            return _status(409, "changed")
        there["data"] = {**(there.get("data") or {}), **body["data"]}
        there["metadata"]["resourceVersion"] += "1"
        return httpx.Response(200, json=there)


def _status(code: int, message: str) -> httpx.Response:
    return httpx.Response(code, json={"kind": "Status", "message": message})


@pytest.fixture
def kubernetes() -> FakeKubernetes:
    return FakeKubernetes()


@pytest.fixture
async def client(kubernetes: FakeKubernetes):
    async with httpx.AsyncClient(base_url="https://k8s", transport=httpx.MockTransport(kubernetes)) as made:
        yield made


async def test_a_secret_without_data_is_filled_and_another_key_kept(kubernetes, client) -> None:
    kubernetes.objects["/api/v1/namespaces/ns/secrets/x"] = {"metadata": {"name": "x", "resourceVersion": "7"}}
    there = api.NamespaceSecrets(client, "ns")
    held = await there.read("x")
    await there.write("x", held, {"a": b"1"})
    with pytest.raises(Transient, match="409 changed"):
        await there.write("x", held, {"a": b"2"})
    await there.write("x", await there.read("x"), {"b": b"3"})
    assert (await there.read("x")).data == {"a": b"1", "b": b"3"}


async def test_a_secret_that_the_chart_has_not_made_is_said(client) -> None:
    with pytest.raises(Permanent, match="cannot get the Secret ns/x: 404 not found"):
        await api.NamespaceSecrets(client, "ns").read("x")


async def test_the_ca_is_published_only_where_the_chart_has_made_the_config_map(kubernetes, client) -> None:
    with pytest.raises(Permanent, match="cannot patch the ConfigMap jobs/ca: 404 not found"):
        await api.publish(client, "jobs", "ca", "PEM")
    kubernetes.objects["/api/v1/namespaces/jobs/configmaps/ca"] = {"metadata": {"name": "ca", "resourceVersion": "1"}}
    await api.publish(client, "jobs", "ca", "PEM")
    assert kubernetes.objects["/api/v1/namespaces/jobs/configmaps/ca"]["data"] == {"ca.crt": "PEM"}


@pytest.mark.parametrize(
    ("code", "error"),
    [(403, Permanent), (401, Permanent), (422, Permanent), (409, Transient), (429, Transient), (503, Transient)],
)
async def test_an_answer_says_whether_to_try_again(code: int, error: type[Exception], kubernetes, client) -> None:
    kubernetes.refusals.append(code)
    with pytest.raises(error, match=f"cannot get the Secret ns/x: {code} you may not"):
        await api.NamespaceSecrets(client, "ns").read("x")


async def test_an_api_that_is_away_is_transient() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with httpx.AsyncClient(base_url="https://k8s", transport=httpx.MockTransport(away)) as client:
        with pytest.raises(Transient, match="does not answer: refused"):
            await api.NamespaceSecrets(client, "ns").read("x")


async def test_without_a_service_account_it_says_which_folder(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--account"):
        async with api.kubernetes("https://k8s", tmp_path):
            pass
