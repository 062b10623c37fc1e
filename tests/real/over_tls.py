"""
A daemon whose clusters are processes of this machine, but reach it as on Kubernetes: over TLS, by addresses, with what
they need in folders that are not their own.

`python -m tests.real.over_tls POOL CA_FOLDER DAEMON_PORT RELAY_PORT`; the rest is in the environment.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from flowgroup import log, settings
from flowgroup.daemon.main import run
from flowgroup.edge import local
from flowgroup.edge.fence import Fence
from flowgroup.edge.files import control_key
from flowgroup.edge.local import Local
from flowgroup.edge.processes import Running, python, spawn
from flowgroup.model.endpoint import Endpoint, TlsPort
from flowgroup.model.ids import FIRST_RELAY, RelayName
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import Settings
from tests.servers import free_port


@dataclass
class OverTls(Local):
    """The relay is somebody else's."""

    ca: Path = Path()
    daemon_port: int = 0
    relay_port: int = 0
    key: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.relay_key = self.key

    @property
    def listen(self) -> TlsPort:
        return TlsPort("127.0.0.1", self.daemon_port, self.ca / "tls.crt", self.ca / "tls.key")

    async def relay(self, name: RelayName = FIRST_RELAY) -> Endpoint:
        return Endpoint.parse(f"https://localhost:{self.relay_port}", ca=self.ca / "ca.crt")

    def _start(self, place: Path, spec: ClusterSpec) -> dict[str, Running]:
        mounted = self.folder / "mounted" / spec.name
        mounted.mkdir(parents=True, exist_ok=True)
        for name in ("spec.json", "secret"):
            (mounted / name).write_text((place / name).read_text())
        (place / "spec.json").unlink()
        dask_env, started = self._dask_env(place, spec), {}
        scheduler = f"tcp://127.0.0.1:{free_port()}"
        if spec.workers:
            command = self._scheduler(place, spec)
            command[command.index("--port") + 1] = scheduler.rpartition(":")[2]
            started["scheduler"] = spawn(command, env=dask_env, cwd=place, log=place / "scheduler.log")
            for role in local._workers(spec):
                started[role] = self._worker(place, spec, role)
        driver = python(
            "flowgroup.rooms",
            "driver",
            *("--cluster", spec.name),
            *("--folder", str(place)),
            *("--spec", str(mounted / "spec.json")),
            *("--secret", str(mounted / "secret")),
            *("--daemon", f"tls://localhost:{self.daemon_port}"),
            *("--relay", f"https://localhost:{self.relay_port}"),
            *("--ca", str(self.ca / "ca.crt")),
            *(("--scheduler", scheduler) if spec.workers else ()),
            *("--storage", str(self.folder / "results")),
        )
        env = {**settings.environment_for_drivers(self.driver), **spec.env}
        started["driver"] = spawn(driver, env=env, cwd=place, log=place / "driver.log")
        return started


def main(pool: str, ca: str, daemon_port: str, relay_port: str) -> None:
    read = Settings.read({"pool": pool})
    log.configure(room="daemon", level=read.daemon.log_level)

    def backend(read: Settings, folder: Path, _: Fence) -> Local:
        return OverTls(
            folder,
            read.prefect,
            read.driver,
            ca=Path(ca),
            daemon_port=int(daemon_port),
            relay_port=int(relay_port),
            key=control_key(read.relay),
        )

    asyncio.run(run(read, backend))


if __name__ == "__main__":
    main(*sys.argv[1:])
