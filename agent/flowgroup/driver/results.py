"""Where results go by default: the folder of the bundle's object store, without a credential of its own."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.filesystems import WritableFileSystem
from prefect.settings import get_current_settings
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import Field

from flowgroup.driver.trust import verifying
from flowgroup.errors import Transient

_TIMEOUTS = {"GET": httpx.Timeout(60.0, connect=10.0), "PUT": httpx.Timeout(300.0, connect=10.0)}


class GroupStorage(WritableFileSystem):
    """
    A folder in an object store. `file://` is read and written as it is; for anything else each object's address is
    presigned by the relay, so that neither the run nor a worker holds a key of the store.
    """

    _block_type_name = "flowgroup results"
    _block_type_slug = "flowgroup-results"

    root: str = Field(description="address of the folder, for example s3://bucket/results/my-flow")

    def _resolve_path(self, path: str) -> str:
        """The full address: what stands in a result's metadata, whoever reads it later."""
        return path if "://" in path else f"{self.root.rstrip('/')}/{path.lstrip('/')}"

    def _local(self, path: str) -> Path | None:
        address = urlsplit(self._resolve_path(path))
        return Path(address.path) if address.scheme == "file" else None

    async def aread_path(self, path: str) -> bytes:
        """Raises ValueError when there is no such object: what Prefect takes for a cache miss."""
        local = self._local(path)
        if local is not None:
            return _read(local)
        answer = await self._asked("GET", path)
        if answer.status_code in {403, 404}:
            raise ValueError(f"there is no result at {self._resolve_path(path)}")
        answer.raise_for_status()
        return answer.content

    @async_dispatch(aread_path)
    def read_path(self, path: str) -> bytes:  # type: ignore[override]
        local = self._local(path)
        if local is not None:
            return _read(local)
        read: bytes | None = run_coro_as_sync(self.aread_path(path))
        assert read is not None
        return read

    async def awrite_path(self, path: str, content: bytes) -> None:
        local = self._local(path)
        if local is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            half = local.with_name(f".{local.name}.half")
            half.write_bytes(content)
            half.replace(local)
            return
        answer = await self._asked("PUT", path, content)
        answer.raise_for_status()

    @async_dispatch(awrite_path)
    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        run_coro_as_sync(self.awrite_path(path, content))

    async def _asked(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        url = await self._presigned(method, path)
        try:
            async with httpx.AsyncClient(timeout=_TIMEOUTS[method], verify=verifying(url)) as client:
                return await client.request(method, url, content=content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            store = urlsplit(url).netloc
            raise Transient(
                f"the object store at {store} cannot be reached from {socket.gethostname()} ({type(exc).__name__}): "
                "results are read and written by whoever runs the task, so every pod of a cluster has to reach it "
                "(on Kubernetes: the chart's jobs.egress)"
            ) from exc

    async def _presigned(self, method: str, path: str) -> str:
        settings = get_current_settings()
        key = self._resolve_path(path).removeprefix(self.root.rstrip("/") + "/")
        desk = str(settings.api.url).removesuffix("/api")
        token = settings.api.key.get_secret_value() if settings.api.key else ""
        async with httpx.AsyncClient(timeout=_TIMEOUTS[method], verify=verifying(desk)) as client:
            answer = await client.post(
                f"{desk}/flowgroup/sign",
                json={"method": method, "key": key},
                headers={"Authorization": f"Bearer {token}"},
            )
        answer.raise_for_status()
        url: str = answer.json()["url"]
        return url


def _read(local: Path) -> bytes:
    if not local.exists():
        raise ValueError(f"there is no result at {local}")
    return local.read_bytes()
