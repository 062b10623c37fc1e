"""
The Kubernetes backend: each cluster is a DaskCluster, which the Dask operator serves, and what it owns.

Nothing is kept here that Kubernetes does not know: all is found again by label and by name. A step that was carried out already
is taken as done, so that a cluster that was half made is finished, and several daemons that make one make one.
"""

import asyncio
import hmac
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flowgroup import log
from flowgroup.edge.files import control_key
from flowgroup.edge.kubernetes import diagnose, fate, images, lease, manifests, network, removal, scaling, seen
from flowgroup.edge.kubernetes.absent import Absent
from flowgroup.edge.kubernetes.budget import Budget
from flowgroup.edge.kubernetes.client import (
    CONFIG_MAPS,
    DASK_CLUSTERS,
    KINDS,
    PODS,
    SECRETS,
    Client,
    Exists,
    Kind,
    NotThere,
)
from flowgroup.edge.kubernetes.crew import Crew
from flowgroup.edge.kubernetes.level import Level, Levels
from flowgroup.edge.kubernetes.manifests import selector
from flowgroup.edge.kubernetes.names import (
    CLUSTER,
    DRIVER,
    KEY,
    SCHEDULER,
    Ground,
    driver_pod,
    of_pool,
    scheduler,
)
from flowgroup.edge.kubernetes.pods import DASHBOARD_PORT, SPEC_KEY, images_of
from flowgroup.edge.kubernetes.references import References
from flowgroup.edge.kubernetes.seen import Owner, Pod
from flowgroup.edge.kubernetes.sizes import Sizes
from flowgroup.edge.kubernetes.takes import takes
from flowgroup.errors import FlowgroupError, Permanent, Refused, Transient
from flowgroup.model import dashboards
from flowgroup.model.causes import said
from flowgroup.model.clusters import Ask, Fate, Found, Takes
from flowgroup.model.endpoint import Endpoint, Listen, TlsPort
from flowgroup.model.ids import FIRST_RELAY, ClusterName, RelayName
from flowgroup.model.orders import Remark
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import Settings, environment_for_pods

Json = dict[str, Any]
_log = log.get()
_MAKE_TIMEOUT_S = 60.0
_AGAIN_S = 0.2
_BEING_MADE_S = 30.0
_TAIL_LINES = 8
_ASKED_PODS = 3
_MADE_AT_ONCE, _DELETED_AT_ONCE = 8, 8  # of a thousand at once none would come to its end


@dataclass
class Kubernetes:
    """`relay_key` is what the daemon shows to the relay; drivers' secrets are made from it, and so are never read back."""

    client: Client
    ground: Ground
    relay_key: str = field(repr=False)
    python: str | None = None
    _refused_since: dict[str, float] = field(default_factory=dict)
    _last_words: dict[str, str] = field(default_factory=dict)
    _drivers: dict[ClusterName, tuple[str, Pod]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        network.check(self.ground)
        self._settings, self.gpus = self.ground.settings, self.ground.sizes.gpus
        self._ours = of_pool(self.ground.pool)
        self._levels = Levels(self.client, self._ours)
        self._references = References(self.client)
        self._crew = Crew(self.client, self._ours)
        self._making, self._deleting = asyncio.Semaphore(_MADE_AT_ONCE), asyncio.Semaphore(_DELETED_AT_ONCE)
        self._asked = Budget()
        self._absent = Absent(self.client, self._ours, self._settings.operator_timeout_s)

    @property
    def listen(self) -> Listen:
        settings = self._settings
        assert settings.tls_cert and settings.tls_key
        return TlsPort("0.0.0.0", settings.listen_port, settings.tls_cert, settings.tls_key)  # noqa: S104

    @property
    def relays(self) -> tuple[RelayName, ...]:
        """The first has no name in specs: clusters that were made when there was only one speak through it."""
        return (FIRST_RELAY, *map(RelayName, self._settings.relay_address[1:]))

    async def relay(self, name: RelayName = FIRST_RELAY) -> Endpoint:
        """The relay is the chart's: it is there or comes back by itself."""
        return Endpoint.parse(self.ground.at(name), ca=self._settings.ca_file)

    def dashboard(self, name: ClusterName) -> str | None:
        """By its Service, which a daemon in a pod reaches; one on another machine may not."""
        host = f"{scheduler(name)}.{self.ground.namespace}.svc"
        return f"http://{host}:{DASHBOARD_PORT}" if self.ground.dashboard else None

    async def aclose(self) -> None:
        await self.client.aclose()

    def takes(self, spec: ClusterSpec) -> Takes:
        return takes(spec, self.ground)

    # Found

    async def find(self) -> list[Found]:
        """Every cluster of this pool. One that was only half made, or with another key, is removed."""
        there = selector(self._ours)
        owners = await self.client.listed(DASK_CLUSTERS, there, metadata_only=True)
        maps = {item["metadata"]["name"]: item for item in (await self.client.listed(CONFIG_MAPS, there)).items}
        found = {owner.name: self._read(owner, maps.get(owner.name)) for owner in map(seen.owner, owners.items)}
        useless = [name for name, read in found.items() if read is None]
        if useless:
            _log.warning("clusters_half_made", clusters=useless, then="removed")
            await asyncio.gather(*(self.delete(name) for name in useless))
        return [read for read in found.values() if read is not None]

    def _read(self, owner: Owner, config_map: Json | None) -> Found | None:
        metadata = (config_map or {}).get("metadata") or {}
        if not config_map or not seen.belongs(config_map, owner.uid):
            return None
        if (metadata.get("annotations") or {}).get(KEY) != self._key():
            return None
        try:
            spec = ClusterSpec.model_validate_json(config_map["data"][SPEC_KEY])
        except (KeyError, TypeError, ValueError):
            return None
        return Found(owner.name, spec, self._secret(owner.name, owner.uid))

    # Made

    async def create(self, spec: ClusterSpec) -> Found:
        """
        Make the cluster, finish one that is half made, or give the one that is there; one whose driver has ended is made
        anew. Raises Refused for what the deployment has to change.
        """
        cluster = manifests.dask_cluster(spec, self.ground)
        try:
            async with self._making, asyncio.timeout(_MAKE_TIMEOUT_S):
                uid = await self._owner(spec, cluster)
                secret = self._secret(spec.name, uid)
                for manifest in manifests.owned(spec, self.ground, uid=uid, secret=secret, key=self._key()):
                    await self._ensure(manifest, uid)
        except TimeoutError as exc:
            raise Transient(f"cluster {spec.name} could not be made within {_MAKE_TIMEOUT_S:.0f} s") from exc
        finally:
            self._changed(spec.name)
        return Found(spec.name, spec, secret)

    async def _owner(self, spec: ClusterSpec, manifest: Json) -> str:
        """The uid of its DaskCluster, which is made if it is not there."""
        while True:
            with suppress(Exists):
                return str((await self.client.create(DASK_CLUSTERS, manifest))["metadata"]["uid"])
            try:
                there = seen.owner(await self.client.get(DASK_CLUSTERS, spec.name))
            except NotThere:
                continue
            if not there.is_leaving and not await self._has_ended(spec.name):
                return there.uid
            await self._remove(spec.name)

    async def _has_ended(self, name: ClusterName) -> bool:
        try:
            driver = seen.pod(await self.client.get(PODS, driver_pod(name)))
        except NotThere:
            return False  # it is being made, and whoever makes it may have died: we finish it
        return driver.phase in ("Failed", "Succeeded")

    async def _ensure(self, manifest: Json, uid: str) -> None:
        """Make the object, unless that very cluster has it. What is left of a former one of that name goes first."""
        kind = KINDS[manifest["kind"]]
        while True:
            with suppress(Exists):
                await self.client.create(kind, manifest)
                return
            if await self._is_there(kind, manifest["metadata"]["name"], uid):
                return

    async def _is_there(self, kind: Kind, name: str, uid: str) -> bool:
        """Whether that very cluster has it; what a former one left is deleted."""
        if kind is SECRETS:  # we may not look: it is what we would make, or a former one's
            await self.client.delete(SECRETS, name)
            return False
        try:
            there = await self.client.get(kind, name)
        except NotThere:
            return False
        if seen.belongs(there, uid) and not there["metadata"].get("deletionTimestamp"):
            return True
        await self.client.delete(kind, name, uid=str(there["metadata"]["uid"]))
        await asyncio.sleep(_AGAIN_S)
        return False

    async def scale(self, name: ClusterName, group: str, wanted: int, retired: tuple[str, ...]) -> bool:
        """Remove these retired workers of a group, and have it make more if there are too few. False: not yet so."""
        return await scaling.scale(self.client, name, group, wanted, retired)

    # Gone

    async def delete(self, name: ClusterName) -> None:
        """
        Delete the cluster and wait until none of its pods is left; without the operator's help if need be.

        Raises Transient when pods of it are still there after a long time, with the node's name to look at.
        """
        async with self._deleting:
            await self._remove(name)

    async def _remove(self, name: ClusterName) -> None:
        try:
            await removal.remove(self.client, name, operator_timeout_s=self._settings.operator_timeout_s)
        finally:
            self._changed(name)

    def _changed(self, name: ClusterName) -> None:
        self._levels.changed(name)
        self._crew.drop(name)
        self._drivers.pop(name, None)

    # Kept

    @property
    def renew_every_s(self) -> float:
        return self._settings.renew_every_s

    async def renew(self, names: Sequence[ClusterName]) -> None:
        await lease.renew(self.client, await self._levels.now(), names, every_s=self.renew_every_s)

    async def asks(self) -> dict[ClusterName, Ask]:
        """What is noted on DaskClusters: who may patch those has Kubernetes' word for it."""
        level = await self._levels.now()
        there = level.owners.items()
        return {name: owner.ask for name, owner in there if not self._levels.is_of_before(level, name)}

    # Seen

    async def look(self, name: ClusterName) -> str | None:
        """None while it lives, waits, or cannot be seen at all: what is not known must end no run."""
        try:
            level = await self._levels.now()
            return None if self._levels.is_of_before(level, name) else await self._trouble(name, level)
        except FlowgroupError as exc:
            _log.warning("cluster_not_seen", cluster=name, reason=str(exc))
            return None

    async def why_never(self, name: ClusterName) -> str | None:
        return await self.look(name) or await self._crew.why_none(name)

    async def fate(self, name: ClusterName) -> Fate:
        try:
            level = await self._levels.now()
        except FlowgroupError:
            return "may-pass"
        if await self._crew.why_none(name):
            return "certain"
        return "may-pass" if self._levels.is_of_before(level, name) else fate.of_cluster(name, level)

    async def why_waiting(self, name: ClusterName) -> str | None:
        """What the cluster waits for if it waits: the reason for a run's message. Not for every second. Never raises."""
        try:
            level = await self._levels.now()
            owner = level.owners.get(name)
            if owner is None or not self._asked.take():
                return None
            pods = [seen.pod(item) for item in (await self.client.listed(PODS, self._of(name))).items]
            waiting = diagnose.why_waiting(pods, owner.workers) or await self._lacking(pods)
            return waiting or await self._absent.why(owner, {pod.role for pod in pods}, now=level.at)
        except FlowgroupError as exc:
            return f"Kubernetes does not say what cluster {name} waits for: {exc}"

    async def losses(self, name: ClusterName) -> dict[str, str]:
        """Why the scheduler and workers ended that did lately, by the names that Dask knows them by."""
        found = await self.client.listed(PODS, self._of(name))
        pods = [pod for pod in map(seen.pod, found.items) if pod.role != DRIVER]
        return diagnose.losses(pods, now=found.at)

    async def remarks(self, spec: ClusterSpec) -> tuple[Remark, ...]:
        """Which image it is, and where one name has become several."""
        if said := images.pinned(images_of(spec, self.ground)):
            return said
        found = await self.client.listed(PODS, self._of(spec.name))
        return images.remarks([seen.pod(item) for item in found.items])

    async def _lacking(self, pods: list[Pod]) -> str | None:
        """All processes of a cluster refer to the same, so the first that says something says all."""
        for pod in pods[:_ASKED_PODS]:
            if lacks := await self._references.waited_for(pod):
                return lacks
        return None

    async def _trouble(self, name: ClusterName, level: Level) -> str | None:
        owner, driver = level.owners.get(name), level.pods.get((name, DRIVER))
        if owner is None:
            return said("cluster-deleted", name=name, namespace=self.ground.namespace, how="gone")
        if owner.is_leaving:
            return said("cluster-deleted", name=name, namespace=self.ground.namespace, how="being deleted")
        if driver is None:
            uid, last = self._drivers.get(name, ("", None))
            is_being_made = uid != owner.uid and level.at - owner.made_at < _BEING_MADE_S
            return None if is_being_made else diagnose.gone(last if uid == owner.uid else None, DRIVER)
        self._drivers[name] = owner.uid, driver  # one that is evicted is soon not there to be asked why
        if end := diagnose.ended(driver, now=level.at):
            return await self._with_last_lines(end, driver)
        pods = [pod for pod in (driver, level.pods.get((name, SCHEDULER))) if pod]
        self._forget_refusals(level)
        return (
            next(filter(None, map(self._never_pulled, pods)), None)
            or await self._missing(pods)
            or await self._crashing(pods)
            or (None if len(pods) > 1 or not owner.workers else await self._absent.never(owner, now=level.at))
        )

    def _never_pulled(self, pod: Pod) -> str | None:
        """Why its image never will be there, once a registry has said so for a while: somebody may just be pushing it."""
        pulled = diagnose.not_pulled(pod)
        if pulled is None or not pulled[1]:
            self._refused_since.pop(pod.uid, None)
            return None
        now = asyncio.get_running_loop().time()
        since = self._refused_since.setdefault(pod.uid, now)
        is_long = now - since >= self._settings.pull_timeout_s
        return pulled[0] if is_long or diagnose.never_pulled(pod) else None

    def _forget_refusals(self, level: Level) -> None:
        there = {pod.uid for pod in level.pods.values()}
        for uid in [uid for uid in self._refused_since if uid not in there]:
            del self._refused_since[uid]
        self._references.forget_others(there)

    async def _missing(self, pods: list[Pod]) -> str | None:
        """Without the right to read events no more than a pod's status is known."""
        for pod in pods:
            with suppress(Permanent):
                if lacks := await self._references.missing(pod):
                    return lacks
        return None

    async def _crashing(self, pods: list[Pod]) -> str | None:
        for pod in pods:
            if entry := diagnose.crashes(pod):
                told = diagnose.crashed(pod, entry, by_name=True)
                return await self._with_last_lines(told, pod, previous=True)
        return None

    async def _with_last_lines(self, cause: str, pod: Pod, *, previous: bool = False) -> str:
        """A pod that has ended says no more, so its last lines are asked for once."""
        if pod.uid not in self._last_words:
            try:
                container = DRIVER if pod.role == DRIVER else SCHEDULER
                words = await self.client.log(pod.name, container=container, lines=_TAIL_LINES, previous=previous)
            except Permanent:
                words = ""
            if len(self._last_words) > 100:  # noqa: PLR2004
                self._last_words.clear()
            self._last_words[pod.uid] = words
        return diagnose.with_last_lines(cause, self._last_words[pod.uid])

    def _of(self, name: ClusterName) -> str:
        return selector(self._ours, **{CLUSTER: name})

    # Secrets

    def _secret(self, name: ClusterName, uid: str) -> str:
        """What the driver of that very DaskCluster says hello with. Only who has the key can make it."""
        return self._made("driver", self.ground.namespace, name, uid)

    def _key(self) -> str:
        """A word about the key, which says nothing of it: clusters that were made with another one are not ours to serve."""
        return self._made("key", self.ground.pool)[:12]

    def _made(self, *parts: str) -> str:
        return hmac.digest(self.relay_key.encode(), "\0".join(parts).encode(), "sha256").hex()


def kubernetes(settings: Settings, client: Client) -> Kubernetes:
    """The backend as the settings say. Raises Refused, naming the setting that is missing or wrong."""
    own = settings.kubernetes
    needed = {
        "FLOWGROUP_KUBERNETES_DAEMON_ADDRESS": own.daemon_address,
        "FLOWGROUP_KUBERNETES_RELAY_ADDRESS": own.relay_address,
        "FLOWGROUP_KUBERNETES_TLS_CERT": own.tls_cert,
        "FLOWGROUP_KUBERNETES_TLS_KEY": own.tls_key,
        "FLOWGROUP_RELAY_CONTROL_KEY_FILE": settings.relay.control_key_file,
    }
    for name, value in needed.items():
        if not value:
            raise Refused(f"{name} is not set, and the kubernetes backend needs it")
    key = control_key(settings.relay)
    ground = Ground(
        pool=settings.daemon.pool or "",
        namespace=client.namespace,
        settings=own,
        sizes=Sizes.read(own.sizes),
        driver_env=environment_for_pods(settings.driver),
        scale_idle_s=settings.driver.scale_idle_s,
        dashboard=partial(dashboards.path, key) if settings.daemon.dashboards else None,
    )
    return Kubernetes(client, ground, key)
