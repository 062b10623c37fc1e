"""What the benchmark on Kubernetes stands on: the chart as `deploy/up.sh` installs it, and a Prefect server of this machine."""

import base64
import json
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgroup import settings
from flowgroup.dev.bench.sides import Bench
from flowgroup.dev.minder import uninterrupted
from flowgroup.edge.processes import end_now, spawn
from flowgroup.errors import Permanent, Refused
from flowgroup.settings import environment_for_user_code

_UP = Path("deploy/up.sh")
_WITHOUT_VOLUMES = "--set daemon.persistence.type=emptyDir --set relay.persistence.type=emptyDir"
_QUIET = "--set tests.enabled=false"
_UP_TIMEOUT_S = 900.0
_DOWN_TIMEOUT_S = 180.0
_ASKED_TIMEOUT_S = 60.0
_FORWARD_TIMEOUT_S = 20.0
_LOOK_S = 0.1


@dataclass(frozen=True)
class Installed:
    """
    `before` begins the names of all its namespaces. `store` is what an author's environment needs to reach the object store.
    """

    before: str
    env: Mapping[str, str]
    store: Mapping[str, str]

    @property
    def jobs(self) -> str:
        return f"{self.before}flowgroup-jobs"

    @property
    def peer(self) -> str:
        """The namespace of Prefect's Kubernetes worker, which the Dask operator looks after too."""
        return f"{self.before}peer"

    def image(self, name: str) -> str:
        """`runtime` or `peer`, as `deploy/up.sh` names it."""
        registry, tag = self.env.get("REGISTRY"), self.env.get("TAG", "dev")
        return f"{registry + '/' if registry else ''}flowgroup-{name}:{tag}"

    def kubectl(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            ["kubectl", *arguments],  # noqa: S607
            env=dict(self.env),
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASKED_TIMEOUT_S,
        )
        if done.returncode:
            raise Permanent(f"kubectl {' '.join(arguments)[:80]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def listed(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("-n", namespace, "get", kind, "-o", "json"))["items"]
        return items

    def daemon_log(self) -> list[dict[str, Any]]:
        """The daemon's lines, oldest first."""
        said = self.kubectl(
            "-n", f"{self.before}flowgroup", "logs", f"deployment/{self.before}flowgroup-daemon-default"
        )
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@contextmanager
def installed(bench: Bench) -> Iterator[Installed]:
    """Everything is up in the block, and gone after it. Raises Refused without a cluster, Permanent when it does not come."""
    if not _UP.exists():
        raise Refused(
            "the benchmark on Kubernetes installs the chart: run it where the repository is (make bench-kubernetes)"
        )
    said = environment_for_user_code()
    if not settings.kubeconfig():
        raise Refused("set KUBECONFIG to the cluster to measure on: namespaces of its own are made there, and go again")
    before = f"bench-{uuid.uuid4().hex[:6]}-"
    wishes = {"NAMESPACES": before, "PREFECT_API": bench.url, "EXAMPLE": "none"}
    wishes |= {"MORE_IMAGES": "peer", "OPERATOR_SERVES": f"{before}peer"}
    env = {**said, **wishes, "HELM_OPTIONS": f"{_WITHOUT_VOLUMES} {_QUIET} {said.get('HELM_OPTIONS', '')}"}
    try:
        _script(env, _UP_TIMEOUT_S)
        there = Installed(before, env, {})
        with _forwarded(bench, there) as port:
            yield Installed(before, env, _store(there, port))
    finally:
        with uninterrupted():
            _script(env, _DOWN_TIMEOUT_S, "down")


def _script(env: Mapping[str, str], timeout_s: float, *arguments: str) -> None:
    done = subprocess.run(  # noqa: S603
        [str(_UP), *arguments], env=dict(env), capture_output=True, text=True, check=False, timeout=timeout_s
    )
    if done.returncode:
        raise Permanent(f"{_UP} failed: {(done.stdout + done.stderr).strip()[-1500:]}")


def _store(there: Installed, port: int) -> dict[str, str]:
    secret = json.loads(there.kubectl("-n", f"{there.before}s3", "get", "secret", "store", "-o", "json"))["data"]
    keys = {name: base64.b64decode(value).decode() for name, value in secret.items()}
    return {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


@contextmanager
def _forwarded(bench: Bench, there: Installed) -> Iterator[int]:
    """A port of this machine that is the object store's."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = ["kubectl", "-n", f"{there.before}s3", "port-forward", "service/s3", f"{port}:7070"]
    with uninterrupted():
        process = spawn(command, env=dict(there.env), cwd=bench.mind.folder, log=bench.mind.folder / "forward.log")
        bench.mind.process(process)
    try:
        deadline = time.monotonic() + _FORWARD_TIMEOUT_S
        while not _listens(port):
            if time.monotonic() > deadline:
                raise Permanent("the object store cannot be reached: kubectl port-forward does not listen")
            time.sleep(_LOOK_S)
        yield port
    finally:
        end_now([process], grace_s=1.0)


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
