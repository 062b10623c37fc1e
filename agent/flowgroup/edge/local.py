"""
The local backend: clusters, drivers and the relay as processes of this machine, which outlive the daemon.

A cluster is a folder under `<folder>/clusters` whose `cluster.json` says what it is and which processes it has.
"""

import asyncio
import json
import platform
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowgroup import log, settings
from flowgroup.edge.dask import QUIET, SHORT_LOGS, WORKER_PRELOAD, dask_resources, scaling
from flowgroup.edge.files import read_text
from flowgroup.edge.oom import Cgroup, Counters
from flowgroup.edge.processes import Running, end, is_alive, python, spawn, strays
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.model.causes import said
from flowgroup.model.clusters import Ask, Fate, Found, Takes
from flowgroup.model.dashboards import path
from flowgroup.model.endpoint import Endpoint, Listen
from flowgroup.model.ids import FIRST_RELAY, ClusterName, RelayName
from flowgroup.model.orders import Remark
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import DEFAULT_GROUP
from flowgroup.settings import DriverSettings, PrefectSettings

_log = log.get()
_ENV_FILE = "env.json"
ASKED_FILE = "asked.json"
"""In a cluster's folder: what an operator asked of it."""
_GRACE_S = 3.0
_RELAY_START_S = 30.0
_TAIL_LINES = 8
_MOST_PID = 2**31 - 1
_WORKER_STARTS_MAX = 5  # in so many seconds
_WORKER_STARTS_S = 300.0
_ROLE = re.compile(r"^worker-(?:(?P<group>.+)-)?(?P<number>\d+)$")


@dataclass
class Local:
    """`folder` is `<home>/<pool>`; `prefect` is what the relay needs to reach the API, `driver` is for the clusters."""

    folder: Path
    prefect: PrefectSettings
    driver: DriverSettings = field(default_factory=DriverSettings)
    has_dashboards: bool = False
    python: str = ".".join(platform.python_version_tuple()[:2])
    relay_key: str = ""
    renew_every_s: float | None = None
    relays: tuple[RelayName, ...] = (FIRST_RELAY,)
    _worker_starts: dict[str, list[float]] = field(default_factory=dict)
    _memory: dict[str, tuple[Cgroup, Counters]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._clusters.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self.relay_key = self._secret(self.folder / "relay.key")

    @property
    def _clusters(self) -> Path:
        return self.folder / "clusters"

    def takes(self, spec: ClusterSpec) -> Takes:
        return Takes.as_processes(spec)

    async def find(self) -> list[Found]:
        """Every cluster that has a folder, whether its processes live or not. What was only half made is removed."""
        found = {path.name: self._read(path) for path in sorted(self._clusters.iterdir())}
        for name in [name for name, read in found.items() if read is None]:
            await self.delete(ClusterName(name))
        return [read for read in found.values() if read is not None]

    async def create(self, spec: ClusterSpec) -> Found:
        """
        Start the cluster of this spec, or give the one that is there. Raises Permanent when it cannot start, and Refused for
        what only Kubernetes has.
        """
        if spec.pod:
            raise Refused(
                f"{next(iter(spec.pod.told()))} needs Kubernetes, and this agent runs clusters as processes of its machine "
                "(FLOWGROUP_BACKEND): leave it out, or say the values by env"
            )
        place = self._clusters / spec.name
        there = self._read(place)
        if there and await self.look(spec.name) is None:
            return there
        await self.delete(spec.name)
        place.mkdir(mode=0o700)
        self._secret(place / "secret")
        (place / "spec.json").write_text(spec.model_dump_json())  # not on a command line: anybody can read those
        if spec.secrets:  # a worker that dies is started again with them, by another daemon maybe
            (place / _ENV_FILE).touch(mode=0o600)
            (place / _ENV_FILE).write_text(json.dumps(spec.secrets))
        try:
            self._write(place, spec, self._start(place, spec))
        except OSError as exc:
            raise Permanent(f"cluster {spec.name} cannot be started on this machine: {exc}") from exc
        made = self._read(place)
        assert made is not None
        self._note_memory(spec.name, self._processes(place))
        return made

    def gpus(self, spec: ClusterSpec) -> dict[str, int]:
        """Of this machine's GPUs all clusters may use all."""
        return {}

    async def scale(self, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> bool:
        """End the retired workers of the group, and start others if there are fewer than wanted."""
        place = self._clusters / name
        there = self._read(place)
        if there is None:
            return True
        processes = self._processes(place)
        ours = {role: number for role in processes if (number := _number(role, group)) is not None}
        going = [processes.pop(role) for role in ours if role in retired]
        first = max([*ours.values(), -1, *(_number(role, group) or 0 for role in retired)]) + 1
        missing = max(0, wanted - (len(ours) - len(going)))
        for number in range(first, first + missing):
            role = f"{_prefix(group)}{number}"
            processes[role] = self._worker(place, there.spec, role)
        self._write(place, there.spec, processes)  # first: what is not written down is not started again when it ends
        await end(going, grace_s=_GRACE_S)
        return True

    async def delete(self, name: ClusterName) -> None:
        """End the cluster's processes and remove its folder. One that is not there is gone already."""
        place = self._clusters / name
        known = list(self._processes(place).values())
        await end([*known, *strays(str(place), known)], grace_s=_GRACE_S)
        self._worker_starts.pop(name, None)
        self._memory.pop(name, None)
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def look(self, name: ClusterName) -> str | None:
        """None while the cluster's processes live; else which one died, and its last words. Dead workers are started again."""
        place = self._clusters / name
        processes = self._processes(place)
        if not processes:
            return f"cluster {name} is not there"
        for role in ("driver", "scheduler"):
            if role in processes and not is_alive(processes[role]):
                return f"{self._why_ended(name, role)} Its last lines:\n{_tail(place / f'{role}.log')}"
        self._note_memory(name, processes)
        dead = [role for role, process in processes.items() if role.startswith("worker") and not is_alive(process)]
        return self._start_again(name, dead) if dead else None

    async def losses(self, name: ClusterName) -> dict[str, str]:
        """The scheduler's end; workers are started again by their nannies, who say in their log what happened."""
        scheduler = self._processes(self._clusters / name).get("scheduler")
        if scheduler is None or is_alive(scheduler):
            return {}
        return {"scheduler": self._why_ended(name, "scheduler")}

    def _note_memory(self, name: ClusterName, processes: dict[str, Running]) -> None:
        """The kernel's account while all live: what it says more when one has ended is why."""
        if driver := processes.get("driver"):
            cgroup = Cgroup.of(driver.pid)
            self._memory[name] = cgroup, cgroup.counters()

    def _why_ended(self, name: ClusterName, role: str) -> str:
        cgroup, before = self._memory.get(name, (None, None))
        code = cgroup.code_since(before) if cgroup and before else None
        if cgroup is None or code is None:
            return said("process-ended", who=role, name=name)
        return said(code, who=f"{role} process of cluster {name}", limit=cgroup.limit(), peak=cgroup.peak())

    async def why_never(self, name: ClusterName) -> str | None:
        """Whatever keeps its driver from being ready is seen or said by that driver."""
        return await self.look(name)

    async def fate(self, name: ClusterName) -> Fate:
        """Why a process ended is not known here, and nobody takes a machine's processes away but a person."""
        return "may-pass"

    async def why_waiting(self, name: ClusterName) -> str | None:
        """Processes wait for nothing that could be said."""
        return None

    async def asks(self) -> dict[ClusterName, Ask]:
        """What was written into their folders."""
        files = self._clusters.glob(f"*/{ASKED_FILE}")
        return {ClusterName(file.parent.name): Ask.read(read_text(file)) for file in files}

    async def renew(self, names: Sequence[ClusterName]) -> None:
        """Nobody else removes clusters of this machine."""

    async def remarks(self, spec: ClusterSpec) -> tuple[Remark, ...]:
        """There are no images here."""
        return ()

    @property
    def listen(self) -> Listen:
        return self.folder / "daemon.sock"

    async def relay(self, name: RelayName = FIRST_RELAY) -> Endpoint:
        """The relay's socket; starts the relay if it does not run. Raises Transient when it does not come up."""
        socket, state = self.folder / "relay.sock", self.folder / "relay.json"
        running = _running(_json(state))
        if running and is_alive(running) and socket.exists():
            return Endpoint.at(socket)
        if running:
            await end([running], grace_s=_GRACE_S)
        _log.info("relay_starting")
        socket.unlink(missing_ok=True)
        started = spawn(
            python("flowgroup.rooms", "relay", "--uds", str(socket)),
            env=settings.environment_for_relay(),
            cwd=self.folder,
            log=self.folder / "relay.log",
            stdin=json.dumps(self._relay_secrets()) + "\n",
        )
        _save(state, asdict(started))
        deadline = asyncio.get_running_loop().time() + _RELAY_START_S
        while not socket.exists():
            if not is_alive(started) or asyncio.get_running_loop().time() > deadline:
                raise Transient(f"the relay does not start. Its last lines:\n{_tail(self.folder / 'relay.log')}")
            await asyncio.sleep(0.02)
        return Endpoint.at(socket)

    def dashboard(self, name: ClusterName) -> str | None:
        """What its scheduler says in the file that workers find it by."""
        services = _json(self._clusters / name / "scheduler.json").get("services")
        port = services.get("dashboard") if isinstance(services, dict) else None
        return f"http://127.0.0.1:{port}" if self.has_dashboards and isinstance(port, int) else None

    async def end_relay(self) -> None:
        """Stop the relay: only when nothing is to be left behind (`flowgroup dev`)."""
        running = _running(_json(self.folder / "relay.json"))
        if running:
            await end([running], grace_s=_GRACE_S)
        (self.folder / "relay.json").unlink(missing_ok=True)

    def _relay_secrets(self) -> dict[str, Any]:
        """By standard input: an environment can be read by every process of the same user."""
        key, word = self.prefect.api_key, self.prefect.api_auth_string
        return {
            "api_url": self.prefect.api_url,
            "api_key": key.get_secret_value() if key else None,
            "api_auth_string": word.get_secret_value() if word else None,
            "api_key_file": _absolute(self.prefect.api_key_file),
            "api_auth_string_file": _absolute(self.prefect.api_auth_string_file),
            "custom_headers": self.prefect.client_custom_headers,
            "control_key": self.relay_key,
        }

    def _start(self, place: Path, spec: ClusterSpec) -> dict[str, Running]:
        driver = python(
            "flowgroup.rooms",
            "driver",
            *("--cluster", spec.name),
            *("--folder", str(place)),
            *("--daemon", str(self.listen)),
            *("--relay", str(self.folder / "relay.sock")),
            *("--storage", str(self.folder / "results")),
        )
        env = {**settings.environment_for_drivers(self.driver), **spec.env, **_json(place / _ENV_FILE)}
        dask_env, started = self._dask_env(place, spec), {}
        if spec.has_workers:
            started["scheduler"] = spawn(
                self._scheduler(place, spec), env=dask_env, cwd=place, log=place / "scheduler.log"
            )
            for role in _workers(spec):
                started[role] = self._worker(place, spec, role)
        started["driver"] = spawn(driver, env=env, cwd=place, log=place / "driver.log")
        return started

    def _scheduler(self, place: Path, spec: ClusterSpec) -> list[str]:
        host = ["--host", "127.0.0.1", "--port", "0"]
        seen_at = path(self.relay_key, spec.name)
        seen = ["--dashboard-address", "127.0.0.1:0", "--dashboard-prefix", seen_at]
        host += seen if self.has_dashboards else ["--no-dashboard"]
        file = ["--scheduler-file", str(place / "scheduler.json")]
        written, idle_s = str(place / "levels"), self.driver.scale_idle_s
        scales = scaling(spec, _prefix, at="127.0.0.1:0", idle_s=idle_s, written=written)
        return [*python("distributed.cli.dask_scheduler"), *host, *file, *scales]

    def _dask_env(self, place: Path, spec: ClusterSpec) -> dict[str, str]:
        scratch = {"DASK_TEMPORARY_DIRECTORY": str(place / "scratch")}  # else the scheduler leaves a folder in /tmp
        env = settings.environment_for_clusters(self.driver)
        lean = {"FLOWGROUP_DRIVER_LEAN": str(self.driver.lean)}
        said = {**spec.env, **_json(place / _ENV_FILE)}
        return {**env, **lean, **SHORT_LOGS, **scratch, **said, "PREFECT_HOME": str(place / "prefect"), **QUIET}

    def _worker(self, place: Path, spec: ClusterSpec, role: str) -> Running:
        return spawn(_worker(place, spec, role), env=self._dask_env(place, spec), cwd=place, log=place / "workers.log")

    def _start_again(self, name: ClusterName, roles: list[str]) -> str | None:
        place = self._clusters / name
        now = time.monotonic()
        lately = [at for at in self._worker_starts.get(name, []) if now - at < _WORKER_STARTS_S] + [now] * len(roles)
        self._worker_starts[name] = lately
        if len(lately) > _WORKER_STARTS_MAX:
            return f"{said('workers-end', name=name)} Their last lines:\n{_tail(place / 'workers.log')}"
        spec = ClusterSpec.model_validate(_json(place / "cluster.json")["spec"])
        processes = self._processes(place)
        for role in roles:
            _log.warning("worker_started_again", cluster=name, worker=role)
            processes[role] = self._worker(place, spec, role)
        self._write(place, spec, processes)
        return None

    def _processes(self, place: Path) -> dict[str, Running]:
        told = _json(place / "cluster.json").get("processes")
        entries = told.items() if isinstance(told, dict) else ()
        return {role: running for role, entry in entries if (running := _running(entry))}

    def _read(self, place: Path) -> Found | None:
        try:
            spec = ClusterSpec.model_validate(_json(place / "cluster.json")["spec"])
            return Found(ClusterName(place.name), spec, (place / "secret").read_text().strip())
        except (OSError, KeyError, ValueError):
            return None

    @staticmethod
    def _write(place: Path, spec: ClusterSpec, processes: dict[str, Running]) -> None:
        told = {role: asdict(process) for role, process in processes.items()}
        _save(place / "cluster.json", {"spec": spec.model_dump(mode="json"), "processes": told})

    @staticmethod
    def _secret(path: Path) -> str:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32))
        return path.read_text().strip()


def _prefix(group: str) -> str:
    """What the roles, and Dask's names, of a group's workers begin with."""
    return "worker-" if group == DEFAULT_GROUP else f"worker-{group}-"


def _number(role: str, group: str) -> int | None:
    """Which worker of this group it is; None if it is none."""
    read = _ROLE.match(role)
    return int(read["number"]) if read and (read["group"] or DEFAULT_GROUP) == group else None


def _workers(spec: ClusterSpec) -> list[str]:
    """The roles of the workers that there are at first."""
    counts = {numbers.group: numbers.first // _processes_each(spec, numbers.group) for numbers in spec.groups}
    return [f"{_prefix(group)}{number}" for group, count in counts.items() for number in range(count)]


def _processes_each(spec: ClusterSpec, group: str) -> int:
    """Where the number of workers changes each process comes and goes by itself."""
    fixed = {numbers.group: numbers.is_fixed for numbers in spec.groups}
    return spec.worker_processes if group == DEFAULT_GROUP and fixed[group] else 1


def _worker(place: Path, spec: ClusterSpec, role: str) -> list[str]:
    read = _ROLE.match(role)
    assert read
    name = read["group"] or DEFAULT_GROUP
    group = next((one for one in spec.worker_groups if one.name == name), None)
    limit = ["--memory-limit", spec.worker_memory] if spec.worker_memory else []
    return [
        *python("distributed.cli.dask_worker"),
        *("--scheduler-file", str(place / "scheduler.json")),
        *("--host", "127.0.0.1"),
        *("--name", role),
        *("--nworkers", str(_processes_each(spec, name))),
        *("--nthreads", str(spec.worker_threads)),
        *("--local-directory", str(place / "scratch")),
        *("--death-timeout", "60"),
        *WORKER_PRELOAD,
        *dask_resources(group),
        *limit,
        "--no-dashboard",
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _save(path: Path, value: dict[str, Any]) -> None:
    half = path.with_suffix(".half")
    half.write_text(json.dumps(value, indent=1))
    half.replace(path)


def _running(entry: Any) -> Running | None:
    try:
        pid = int(entry["pid"])
        return Running(pid, str(entry["started"])) if 0 < pid <= _MOST_PID else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return "(it left no log)"


def _absolute(file: Path | None) -> str | None:
    """As the relay finds it, whose folder is another."""
    return str(file.absolute()) if file else None
