"""Every check broken once, and the check names it, with what puts it right."""

import json
import socket
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowgroup import cli, signing
from flowgroup.errors import Permanent, Transient
from flowgroup.operate.checks.kubernetes import RIGHTS
from flowgroup.operate.doctor import checks
from tests.fakes.ca import FakeCA
from tests.operate.looking import POOL, World

Break = Callable[[World], object]
_Usage = namedtuple("_Usage", "total used free")
_HOME = "flowgroup.operate.checks.home"


@pytest.fixture
async def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(tmp_path, monkeypatch)
    yield world
    for taken in world.kept:
        taken.close()


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch, on_kubernetes=True)


def _raises(world: World, what: str, trouble: Exception) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise trouble

    world.patch.setattr(what, fails)


def _taken_port(world: World) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    world.kept.append(taken)
    world.set(FLOWGROUP_HEALTH_PORT=taken.getsockname()[1])
    world.patch.setattr("flowgroup.edge.operating.serves", lambda _: False)


def _untrusted_key(world: World) -> None:
    trusted, mine = (signing.new_pair(world.home / "keys", name) for name in ("theirs", "mine"))
    world.set(FLOWGROUP_PUBLIC_KEYS=trusted.public, FLOWGROUP_SIGNING_KEY=mine.private)


def _file(world: World, name: str, text: str) -> Path:
    path = world.home / name
    path.write_text(text)
    return path


EVERYWHERE: dict[str, Break] = {
    "api-name": lambda world: world.set(PREFECT_API_URL="http://nobody.invalid/api"),
    "api-reachable": lambda world: world.fake.fail("GET /health", 503),
    "api-key": lambda world: world.fake.fail("POST /work_pools/filter", 401),
    "api-rights": lambda world: world.fake.fail("POST /logs/", 403),
    "api-version": lambda world: setattr(world.fake, "version", "2.20.1"),
    "clock": lambda world: setattr(world, "date", lambda: datetime.now(UTC) - timedelta(minutes=1)),
    "event-stream": lambda world: world.set(FLOWGROUP_EVENTS="true"),
    "pool": lambda world: world.fake.pools.clear(),
    "pool-type": lambda world: world.fake.pools[POOL].update(type="process"),
    "pool-template": lambda world: world.fake.pools[POOL].update(base_job_template={}),
    "pool-open": lambda world: world.fake.pools[POOL].update(is_paused=True),
    "worker-online": lambda world: world.fake.workers.clear(),
    "home-writable": lambda world: world.patch.setattr(f"{_HOME}.os.access", lambda *_: False),
    "home-private": lambda world: world.folder.chmod(0o755),
    "disk": lambda world: world.patch.setattr(f"{_HOME}.shutil.disk_usage", lambda _: _Usage(10**12, 10**12, 10**6)),
    "open-files": lambda world: world.patch.setattr(f"{_HOME}.resource.getrlimit", lambda _: (256, 256)),
    "health-port": _taken_port,
    "daemon-status": lambda world: setattr(world, "is_serving", False),
    "last-poll": lambda world: world.told.update(last_poll_at="2026-11-28T00:00:00+00:00"),
    "loops": lambda world: world.told.update(stuck=["poll"]),
    "slots": lambda world: world.told.update(slots={"total": 3, "held": 3}),
    "clusters": lambda world: world.told.update(clusters=[{"name": "etl-1", "trouble": "no space left"}]),
    "python": lambda world: world.patch.setattr("platform.python_version_tuple", lambda: ("3", "9", "1")),
    "store-write": lambda world: world.set(FLOWGROUP_STORE="file:///proc/nobody/store"),
    "store-read": lambda world: _raises(world, "flowgroup.edge.store.get", Transient("cut off")),
    "public-keys": lambda world: world.set(FLOWGROUP_PUBLIC_KEYS=world.home),
    "signing-key": _untrusted_key,
}
LOCAL: dict[str, Break] = {
    "socket-path": lambda world: world.patch.setattr(f"{_HOME}._SOCKET_MAX", 10),
    "daemon-lock": lambda world: setattr(world, "is_locked", False),
    "daemon-alive": lambda world: world.health.loop("poll", limit_s=-1.0),
    "daemon-ready": lambda world: setattr(world.health, "is_ready", False),
    "relay": lambda world: (world.folder / "relay.sock").touch(),
    "packages": lambda world: world.patch.setattr("importlib.metadata.version", lambda _: "2.0"),
}


def _certificate(world: World) -> None:
    authority = FakeCA(world.home / "ca")
    authority.issue("daemon.flowgroup.svc", days=1)
    world.set(FLOWGROUP_KUBERNETES_TLS_CERT=authority.folder / "tls.crt")


def _deaf(world: World) -> None:
    world.api.operator = False
    world.old_cluster()


def _no_image(world: World) -> None:
    def asked(*_: object, **__: object) -> str:
        raise Permanent("its registry has no such image")

    world.set(FLOWGROUP_KUBERNETES_IMAGE="registry.example/flows:1")
    world.patch.setattr("flowgroup.operate.checks.kubernetes.digest_of", asked)


def _gpus(world: World) -> None:
    world.set(FLOWGROUP_KUBERNETES_SIZES=_file(world, "sizes.json", '{"big": {"gpu": 1}}'))
    world.paths["/api/v1/nodes"] = {"items": [{"status": {"allocatable": {"cpu": "4"}}}]}


_QUOTA = {"items": [{"status": {"hard": {"pods": "10", "cpu": "4"}, "used": {"pods": "10", "cpu": "1"}}}]}
_GROUP = "/apis/kubernetes.dask.org/v1"
KUBERNETES: dict[str, Break] = {
    "kubernetes-api": lambda world: world.paths.update({"/version": 500}),
    "kubernetes-clock": lambda world: setattr(world, "date", lambda: datetime.now(UTC) + timedelta(minutes=2)),
    "crd-daskclusters": lambda world: world.paths.update({_GROUP: {"resources": [{"name": "daskworkergroups"}]}}),
    "crd-daskworkergroups": lambda world: world.paths.update({_GROUP: {"resources": [{"name": "daskclusters"}]}}),
    "crd-schema": lambda world: world.paths.update({f"/openapi/v3{_GROUP}": {"properties": {}}}),
    "dask-operator": _deaf,
    "image": _no_image,
    "sizes": lambda world: world.set(FLOWGROUP_KUBERNETES_SIZES=_file(world, "sizes.json", '{"big": {"cpus": 1}}')),
    "service-accounts": lambda world: world.paths.update({"/api/v1/namespaces/jobs/serviceaccounts/default": 404}),
    "certificate": _certificate,
    "control-key": lambda world: world.set(FLOWGROUP_RELAY_CONTROL_KEY_FILE=world.home / "none"),
    "addresses": lambda world: world.set(FLOWGROUP_KUBERNETES_DAEMON_ADDRESS="tls://nobody.invalid:8443"),
    "relays": lambda world: world.set(FLOWGROUP_KUBERNETES_RELAY_ADDRESS="https://127.0.0.1:9"),
    "network-policies": lambda world: world.set(FLOWGROUP_KUBERNETES_NETWORK_POLICY="false"),
    "quota": lambda world: world.paths.update({"/api/v1/namespaces/jobs/resourcequotas": _QUOTA}),
    "gpu-nodes": _gpus,
}
_RIGHTS = [(verb, resource) for (_, resource), verbs in RIGHTS.items() for verb in verbs]


def test_every_check_is_broken_here_once() -> None:
    rights = {f"may-{verb}-{resource.replace('/', '-')}" for verb, resource in _RIGHTS}
    on_kubernetes = {one.name for one in checks(on_kubernetes=True)}
    here = {one.name for one in checks(on_kubernetes=False)}
    assert here == {"api-address"} | EVERYWHERE.keys() | LOCAL.keys()
    assert on_kubernetes == {"api-address", "packages"} | EVERYWHERE.keys() | KUBERNETES.keys() | rights
    assert len(here) >= 20


async def test_where_all_is_well_no_check_fails(local: World) -> None:
    assert {name: one.detail for name, one in (await local.results()).items() if not one.ok} == {}


async def test_where_all_is_well_on_kubernetes_no_check_fails(cluster: World) -> None:
    cluster.old_cluster()
    cluster.api.put("networkpolicies", {"metadata": {"name": "etl-1"}})
    results = await cluster.results()
    assert {name: one.detail for name, one in results.items() if not one.ok} == {}
    assert results["dask-operator"].detail == "it has served 1 clusters"


@pytest.mark.parametrize("name", [*EVERYWHERE, *LOCAL])
async def test_what_is_broken_is_named(local: World, name: str) -> None:
    {**EVERYWHERE, **LOCAL}[name](local)
    found = (await local.results("public-keys", name) if name == "signing-key" else await local.results(name))[name]
    assert not found.ok, found.detail
    assert found.detail
    assert found.fix


@pytest.mark.parametrize("name", [*KUBERNETES])
async def test_what_is_broken_on_kubernetes_is_named(cluster: World, name: str) -> None:
    KUBERNETES[name](cluster)
    found = (await cluster.results(name))[name]
    assert not found.ok, found.detail
    assert found.detail
    assert found.fix


@pytest.mark.parametrize(("verb", "resource"), _RIGHTS)
async def test_a_right_that_lacks_is_named_verb_by_verb(cluster: World, verb: str, resource: str) -> None:
    cluster.lacks.add((verb, resource))
    name = f"may-{verb}-{resource.replace('/', '-')}"
    found = (await cluster.results(name))[name]
    assert not found.ok
    assert repr(verb) in found.fix
    others = await cluster.results(*(f"may-{one}-{of.replace('/', '-')}" for one, of in _RIGHTS))
    assert [other for other, one in others.items() if not one.ok] == [name]


def test_the_rights_are_those_of_the_charts_role() -> None:
    text = (Path(__file__).parents[2] / "helm/flowgroup/templates/rbac.yaml").read_text()
    for (group, resource), verbs in RIGHTS.items():
        said = f"apiGroups: [{group or chr(34) * 2}]\n    resources: [{resource}]\n    verbs: [{', '.join(verbs)}]"
        assert said in text
    of_leases = text.count("resources: [leases]")  # which only daemons that stand by for each other need
    assert text.count("resources: [") - of_leases == len(RIGHTS)


async def test_what_stands_on_a_failed_check_is_not_blamed(local: World) -> None:
    local.fake.fail("GET /health", 503)
    results = await local.results()
    assert [name for name, one in results.items() if not one.ok] == ["api-reachable"]
    assert results["pool-type"].detail.startswith("not checked")


async def test_the_certificate_must_name_the_daemons_host(cluster: World) -> None:
    _certificate(cluster)
    FakeCA(cluster.home / "ca").issue("another.svc", days=90)
    cluster.set(FLOWGROUP_KUBERNETES_DAEMON_ADDRESS="tls://daemon.flowgroup.svc:8443")
    assert "daemon.flowgroup.svc" in (await cluster.results("certificate"))["certificate"].detail


def test_the_json_is_exactly_the_checks_and_a_failure_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--pool", "p", "--home", str(tmp_path), "--only", "api-key", "--json"])
    assert ended.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["checks"]
    assert all(list(one) == ["name", "ok", "detail", "fix"] for one in told["checks"])
    failed = [one for one in told["checks"] if not one["ok"]]
    assert [one["name"] for one in failed] == ["api-address"]
    assert "PREFECT_API_URL" in failed[0]["fix"]
