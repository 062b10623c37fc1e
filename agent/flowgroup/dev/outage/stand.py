"""What an outage happens to: our stack or Prefect's process worker, before a server that is reached by a proxy."""

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import httpx

from flowgroup.dev import service
from flowgroup.dev.bench.runs import get, post
from flowgroup.dev.bench.sides import FLOWS, Asked, Bench, deployed, told, worker_up
from flowgroup.dev.front import LOCALHOST, Front, serving
from flowgroup.dev.minder import end_pool
from flowgroup.edge.certs.making import Pair, make_ca, make_leaf
from flowgroup.edge.processes import Running, end_now, is_alive, python, running

_POOL, _THEIR_POOL = "outage", "outage-theirs"
_GRACE_S = 10.0
_FLOW = "numbered.py:numbered"
_LOOK_S, _ANSWERS_S = 0.02, 5.0
_DEPLOY = """
import sys
from prefect import flow
folder, pool, entrypoint = sys.argv[1:]
made = flow.from_source(source=folder, entrypoint=entrypoint)
made.deploy(name="outage", work_pool_name=pool, build=False, push=False, print_next_steps=False)
"""


class Stand(Protocol):
    """`deployment` is the flow of numbered lines; `exits` names what has ended that should never end."""

    bench: Bench
    front: Front
    deployment: str
    asks_every_s: float

    def exits(self) -> list[str]: ...


@dataclass
class Ours:
    """The daemon, its relay and its clusters."""

    bench: Bench
    front: Front
    deployment: str
    daemon: Running
    asks_every_s: float = 5.0
    _seen: dict[str, int] = field(default_factory=dict)

    @property
    def _folder(self) -> Path:
        return self.bench.mind.folder / _POOL

    def relay(self) -> Running | None:
        try:
            read = json.loads((self._folder / "relay.json").read_text())
            return Running(int(read["pid"]), str(read["started"]))
        except (OSError, ValueError, KeyError):
            return None

    def is_relay_up(self) -> bool:
        there = self.relay()
        if there is None or not is_alive(there):
            return False
        transport = httpx.HTTPTransport(uds=str(self._folder / "relay.sock"))
        with httpx.Client(transport=transport, base_url="http://relay", timeout=_ANSWERS_S) as client:
            try:
                return client.get("/livez").is_success
            except httpx.TransportError:
                return False

    def kill_relay(self) -> bool:
        """By SIGKILL, if there is one; whether there was."""
        there = self.relay()
        if there is None or not is_alive(there):
            return False
        with suppress(ProcessLookupError):
            os.kill(there.pid, signal.SIGKILL)
        while is_alive(there):
            time.sleep(_LOOK_S)
        self._seen.pop("relay", None)
        return True

    def exits(self) -> list[str]:
        """Since the last time that this was asked. A relay that was killed here has not ended by itself."""
        gone = [] if is_alive(self.daemon) else ["daemon"]
        relay = self.relay()
        before = self._seen.get("relay")
        if relay is not None:
            self._seen["relay"] = relay.pid
        return gone + (["relay"] if before is not None and (relay is None or relay.pid != before) else [])


@dataclass
class Theirs:
    """Prefect's process worker."""

    bench: Bench
    front: Front
    deployment: str
    worker: list[Running]
    asks_every_s: float = 0.0

    def exits(self) -> list[str]:
        return [] if all(is_alive(process) for process in self.worker) else ["worker"]


@contextmanager
def ours(bench: Bench) -> Iterator[Ours]:
    """The API's address is https, so that a certificate can be wrong."""
    folder = bench.mind.folder
    right, wrong, trusted = certificates(folder)
    with serving(Front(bench.url.removesuffix("/api"), tls=right, wrong=wrong)) as front:
        daemon = service.start_daemon(
            bench.mind,
            front.url,
            pool=_POOL,
            log=folder / "daemon.log",
            env={"PREFECT_API_SSL_CERT_FILE": str(trusted)},
        )
        process = running(daemon.pid)
        try:
            yield Ours(bench, front, deployed(bench, _POOL, [Asked("numbered", _FLOW)])["numbered"], process)
        finally:
            end_now([process], grace_s=_GRACE_S)
            end_pool(folder / _POOL)


@contextmanager
def theirs(bench: Bench) -> Iterator[Theirs]:
    post(bench.api, "/work_pools/", {"name": _THEIR_POOL, "type": "process"})
    told([sys.executable, "-c", _DEPLOY, str(FLOWS), _THEIR_POOL, _FLOW], bench.env)
    deployment = str(get(bench.api, "/deployments/name/numbered/outage")["id"])
    command = python("prefect", "worker", "start", "--type", "process", "--pool", _THEIR_POOL)
    worker: list[Running] = []
    with (
        serving(Front(bench.url.removesuffix("/api"))) as front,
        worker_up(bench, command, {"PREFECT_API_URL": front.url}, worker),
    ):
        yield Theirs(bench, front, deployment, worker)


def certificates(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext, Path]:
    """What the proxy shows, what it shows when that is wrong, and the file of the authority that is trusted."""
    now = datetime.now(UTC)
    ca, another = make_ca("outage", now), make_ca("another", now)
    trusted = folder / "ca.pem"
    trusted.write_bytes(ca.certificate)
    return _showing(folder / "right.pem", ca, now), _showing(folder / "wrong.pem", another, now), trusted


def _showing(file: Path, ca: Pair, now: datetime) -> ssl.SSLContext:
    leaf = make_leaf(ca, [LOCALHOST], now)
    file.touch(mode=0o600)
    file.write_bytes(leaf.certificate + leaf.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
