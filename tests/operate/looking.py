"""What doctor's tests look through: a fake Prefect, a fake Kubernetes with its discovery, a daemon that says how all stands."""

import fcntl
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.names import of_pool
from flowgroup.edge.wire import connected
from flowgroup.health import Health, serve
from flowgroup.model.variables import base_job_template
from flowgroup.operate.checks.base import Seen
from flowgroup.operate.doctor import Result, chosen, examined
from flowgroup.operate.place import Place
from flowgroup.settings import Settings
from tests.fakes.kubernetes import FakeKubernetes, status
from tests.fakes.prefect_api import FakePrefect

Json = dict[str, Any]
POOL = "p"


def standing() -> Json:
    return {
        "pool": POOL,
        "last_poll_at": datetime.now(UTC).isoformat(),
        "stuck": [],
        "slots": {"total": 3, "held": 1},
        "clusters": [],
        "runs": [],
    }


@dataclass
class World:
    """All is well in it until a test breaks something."""

    home: Path
    patch: pytest.MonkeyPatch
    on_kubernetes: bool = False
    fake: FakePrefect = field(default_factory=FakePrefect)
    api: FakeKubernetes = field(default_factory=FakeKubernetes)
    paths: dict[str, Json | int] = field(default_factory=dict)
    lacks: set[tuple[str, str]] = field(default_factory=set)
    told: Json = field(default_factory=standing)
    health: Health = field(default_factory=Health)
    is_locked: bool = True
    is_serving: bool = True
    kept: list[socket.socket] = field(default_factory=list)
    date: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700)
        self.health.ready()
        self.fake.pools[POOL] = {
            "id": "1",
            "name": POOL,
            "type": "dask",
            "base_job_template": base_job_template(),
            "is_paused": False,
        }
        self.fake.workers.add("w")
        self.api.now = format_datetime(datetime.now(UTC), usegmt=True)
        self.paths = {
            "/version": {"gitVersion": "v1.34.0"},
            "/apis/kubernetes.dask.org/v1": {"resources": [{"name": "daskclusters"}, {"name": "daskworkergroups"}]},
            "/openapi/v3/apis/kubernetes.dask.org/v1": {"properties": {"idleTimeout": {"type": "integer"}}},
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/daskclusters.kubernetes.dask.org": 403,
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/daskworkergroups.kubernetes.dask.org": {
                "metadata": {"creationTimestamp": "2026-03-01T00:00:00Z"}
            },
            "/api/v1/namespaces/jobs/serviceaccounts/default": {"metadata": {"name": "default"}},
            "/api/v1/namespaces/jobs/resourcequotas": {"items": []},
            "/api/v1/nodes": {"items": [{"status": {"allocatable": {"nvidia.com/gpu": "2"}}}]},
        }
        self.set(FLOWGROUP_HOME=self.home, FLOWGROUP_STORE=f"file://{self.home}/store", FLOWGROUP_EVENTS="false")
        self.set(PREFECT_API_URL="http://127.0.0.1:9/api", FLOWGROUP_POOL=POOL)
        if self.on_kubernetes:
            self.set(FLOWGROUP_BACKEND="kubernetes", FLOWGROUP_KUBERNETES_NAMESPACE="jobs")

    @property
    def folder(self) -> Path:
        return self.home / POOL

    def set(self, **environment: object) -> None:
        for name, value in environment.items():
            self.patch.setenv(name, str(value))

    def status_of(self) -> Json:
        return self.told

    async def results(self, *only: str) -> dict[str, Result]:
        where = Place(Settings.read(), POOL, self.folder, "flowgroup")
        async with self._seen(where) as seen:
            return {one.name: one for one in await examined(where, chosen(where, only), seen)}

    @asynccontextmanager
    async def _seen(self, where: Place) -> AsyncIterator[Seen]:
        access = Access("https://kubernetes.test", ssl.create_default_context(), "jobs", lambda: "", lambda: "")
        client = Client(access, "jobs", transport=httpx.MockTransport(self._kubernetes))
        self.health.pages["/flowgroup/status"] = self.status_of
        async with (
            connected(where.settings.prefect, transport=_Dated(self)) as wire,
            serve(self.health, "127.0.0.1", 0) as port,
        ):
            if self.is_serving:
                (self.folder / "daemon.json").write_text(json.dumps({"pid": 1, "health_port": port}))
            with (self.folder / "daemon.lock").open("w") as lock:
                if self.is_locked:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                yield Seen(where, wire=wire, client=client)
        await client.aclose()

    def _kubernetes(self, request: httpx.Request) -> httpx.Response:
        path = urlsplit(str(request.url)).path
        if path.endswith("/selfsubjectaccessreviews"):
            asked = json.loads(request.content)["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            return httpx.Response(201, json={"status": {"allowed": (asked["verb"], resource) not in self.lacks}})
        answer = self.paths.get(path)
        if answer is None:
            return self.api._answer(request)
        if answer == 403:
            return status(403, 'x is forbidden: User "a" cannot get resource "x" in API group "" at the cluster scope')
        if isinstance(answer, int):
            return status(answer, "told to fail")
        return httpx.Response(200, json=answer, headers={"date": format_datetime(self.date(), usegmt=True)})

    def old_cluster(self, name: str = "etl-1") -> None:
        """A DaskCluster of the pool that the operator has had time for."""
        labels = {"app.kubernetes.io/managed-by": "flowgroup", "flowgroup.dev/pool": of_pool(POOL)}
        self.api.made = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.api.put("daskclusters", {"metadata": {"name": name, "labels": labels}})
        if self.api.operator:
            self.api.act_on(name)


class _Dated(httpx.ASGITransport):
    """The fake Prefect, whose answers have a date, as a real one's."""

    def __init__(self, world: World) -> None:
        super().__init__(world.fake)
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        answer.headers["date"] = format_datetime(self._world.date(), usegmt=True)
        return answer
