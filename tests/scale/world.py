"""What the daemon has around it, pretended in one process: Prefect's API, the Dask operator, and every cluster's driver."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from pydantic_core import from_json

from flowgroup.edge.embedded import Embedded
from flowgroup.model.ids import ClusterName
from flowgroup.model.orders import Exit, Order
from tests.fakes.backend import FakeDriver
from tests.fakes.prefect_api import FakePrefect

_STATUS_S = 2.0  # as often as real drivers on another host
_CLUSTER, _ROLE, _COMPONENT = "flowgroup.dev/cluster", "flowgroup.dev/role", "dask.org/component"
_DASK = "/apis/kubernetes.dask.org/v1/namespaces/{}/daskclusters"
_PODS, _SECRETS = "/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/secrets"
AT_ONCE = 16
Json = dict[str, Any]


@dataclass
class Driver(FakeDriver):
    """Over TLS, as in a pod."""

    port: int = 0
    trusted: ssl.SSLContext | None = None

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trusted)


@dataclass
class World:
    """
    `kubernetes` reaches its API. `takes_s` is how long a run runs. `submitted` are the runs that a driver has, each with the
    moment when it had it.
    """

    api: FakePrefect
    kubernetes: httpx.AsyncClient
    namespace: str
    port: int
    trusted: ssl.SSLContext
    takes_s: float = 5.0
    submitted: dict[str, float] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    drivers: dict[str, Driver] = field(default_factory=dict)
    pods: int = 0
    _busy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        """The operator and the kubelets' part during the block."""
        watches = [
            asyncio.create_task(self._watch(_DASK, "", self._serve)),
            asyncio.create_task(self._watch(_PODS, f"{_ROLE}=driver", self._begin)),
        ]
        try:
            yield
            for watch in watches:
                if watch.done():
                    watch.result()
        finally:
            for task in [*watches, *self._tasks]:
                task.cancel()
            await asyncio.gather(*watches, *self._tasks, return_exceptions=True)

    async def _watch(self, path: str, labels: str, do: Callable[[Json], Any]) -> None:
        """Every object that is new, from the namespace's beginning, each once."""
        known: set[str] = set()
        query = {"watch": "1", "labelSelector": labels, "timeoutSeconds": "3600"}
        while True:
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                async with self.kubernetes.stream("GET", path.format(self.namespace), params=query) as answer:
                    answer.raise_for_status()
                    async for line in answer.aiter_lines():
                        event = from_json(line)
                        uid = event["object"]["metadata"].get("uid", "")
                        if event["type"] in {"ADDED", "MODIFIED"} and uid not in known:
                            known.add(uid)
                            self._later(do(event["object"]))
            await asyncio.sleep(1)

    def _later(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The operator

    async def _serve(self, cluster: Json) -> None:
        """The pods of a DaskCluster, without the Deployments and Services between them."""
        spec, name = cluster["spec"], cluster["metadata"]["name"]
        await self._pod(cluster, spec["scheduler"], "scheduler", f"{name}-scheduler")
        for number in range(spec["worker"]["replicas"]):
            await self._pod(cluster, spec["worker"], "worker", f"{name}-worker-{number}")

    async def _pod(self, cluster: Json, part: Json, component: str, name: str) -> None:
        of = cluster["metadata"]
        owner = {"apiVersion": cluster["apiVersion"], "kind": "DaskCluster", "name": of["name"], "uid": of["uid"]}
        labels = {
            **of["labels"],
            **part["metadata"]["labels"],
            "dask.org/cluster-name": of["name"],
            _COMPONENT: component,
        }
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": part["spec"]}
        async with self._busy:
            answer = await self.kubernetes.post(_PODS.format(self.namespace), json=body)
        assert answer.is_success, answer.text
        self.pods += 1

    # A driver

    async def _begin(self, pod: Json) -> None:
        name = pod["metadata"]["labels"][_CLUSTER]
        async with self._busy:
            answer = await self.kubernetes.get(f"{_SECRETS.format(self.namespace)}/{name}")
        secret = base64.b64decode(answer.raise_for_status().json()["data"]["secret"]).decode()
        self.pods += 1
        self.drivers[name] = driver = Driver(
            cluster=ClusterName(name),
            secret=secret,
            socket=None,  # type: ignore[arg-type]  # it dials a port
            engine=self._runs,
            pid=len(self.drivers) + 1,
            interval_s=_STATUS_S,
            again_s=1.0,
            port=self.port,
            trusted=self.trusted,
        )
        await driver.run()

    async def _runs(self, order: Order, running: Callable[[], None]) -> Exit:
        """A child: it says to the API that it runs and that it has ended, as Prefect's engine would."""
        run = str(order.run_id)
        if run in self.submitted:
            self.twice.append(run)
        self.submitted[run] = asyncio.get_running_loop().time()
        await asyncio.sleep(0.2)
        self.api.put_state(run, "RUNNING")
        running()
        await asyncio.sleep(self.takes_s)
        self.api.put_state(run, "COMPLETED")
        return Exit(code=0, reached_user_code=True, reported=True)


@contextlib.asynccontextmanager
async def served(api: FakePrefect, port: int) -> AsyncIterator[None]:
    """The pretended API on the loopback."""
    server = Embedded(
        uvicorn.Config(
            api, port=port, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=1
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving
