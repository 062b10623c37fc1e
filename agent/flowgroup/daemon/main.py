"""
The daemon's process: startup, loops, shutdown.

Parts are built in order and get only finished parts, anew whenever this daemon begins to lead. A signal sets a flag: nothing
more is claimed, what no driver has is given back, and running runs stay with their drivers, who find the next daemon. A
second signal ends at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from flowgroup import log, signing
from flowgroup.daemon import asked as asked_room
from flowgroup.daemon import clusters as clusters_room
from flowgroup.daemon import losses as losses_room
from flowgroup.daemon import scale as scale_room
from flowgroup.daemon.again import Again
from flowgroup.daemon.artifacts import Artifacts
from flowgroup.daemon.attempts import Attempts
from flowgroup.daemon.cancel import Cancels, look_for_cancelling
from flowgroup.daemon.caps import Caps, limits_of
from flowgroup.daemon.claims import Claims
from flowgroup.daemon.clusters import Clusters
from flowgroup.daemon.costs import Costs, Named
from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.heartbeat import beat
from flowgroup.daemon.held import Held
from flowgroup.daemon.journey import Journeys
from flowgroup.daemon.keep import keep
from flowgroup.daemon.known import Knowledge
from flowgroup.daemon.lead import FileSeat, Seat
from flowgroup.daemon.listen import listen
from flowgroup.daemon.losses import Answers
from flowgroup.daemon.owner import folder_of, mark_of
from flowgroup.daemon.page.dashboards import Dashboards
from flowgroup.daemon.page.serving import served
from flowgroup.daemon.placement import Policy
from flowgroup.daemon.poll import Poll, Rhythm
from flowgroup.daemon.prewarm import Ahead, Prewarm
from flowgroup.daemon.process import Loops, announced, stopped_by_signals, threads, ungrouped, until_stopped
from flowgroup.daemon.reap import reap
from flowgroup.daemon.reconcile import Reconcile
from flowgroup.daemon.scale import Scale
from flowgroup.daemon.seals import Seals
from flowgroup.daemon.send import Sender
from flowgroup.daemon.shelf import Shelf
from flowgroup.daemon.shortage import Shortage
from flowgroup.daemon.slots import Slots
from flowgroup.daemon.standing import Standing
from flowgroup.daemon.teardown import tear_down
from flowgroup.daemon.tell import Teller
from flowgroup.daemon.there import clusters_there, made_again, pool_there, registered, worker_name
from flowgroup.daemon.timings import Timings
from flowgroup.daemon.unless import Interrupted, unless
from flowgroup.daemon.wake import Wake
from flowgroup.daemon.watch import Watch
from flowgroup.edge import store
from flowgroup.edge.channel import Channel
from flowgroup.edge.events import Events
from flowgroup.edge.fence import Fence
from flowgroup.edge.pools import Pool
from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.edge.relay_control import RelayControl, RelayControls
from flowgroup.errors import Refused
from flowgroup.health import Health, serve
from flowgroup.metrics import CLUSTERS, LEADING, LOOP_BLOCKED, LOOP_LAG, RUNS_HELD, WORKERS
from flowgroup.model.endpoint import Endpoint, Listen
from flowgroup.model.ids import ClusterName, RelayName, digest
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import DaemonSettings, Settings, ui_of
from flowgroup.watchdog import Seen, watched

_STUCK_S = 180.0  # a loop is stuck when it has not come round for so long, API calls that time out included


class Backend(clusters_room.Backend, scale_room.Backend, losses_room.Backend, asked_room.Backend, Protocol):
    """What makes clusters, and keeps relays alive. `relay_key` is what the daemon shows to a relay."""

    @property
    def relay_key(self) -> str: ...

    @property
    def listen(self) -> Listen:
        """Where the daemon listens for the drivers of this backend's clusters."""
        ...

    @property
    def relays(self) -> Sequence[RelayName]:
        """Those that new clusters are shared out among, by flow group."""
        ...

    def gpus(self, spec: ClusterSpec) -> dict[str, int]:
        """How many GPUs each worker of a group holds, by the group's name; as far as the backend shares them out."""
        ...

    def dashboard(self, name: ClusterName) -> str | None:
        """Where the cluster's scheduler serves Dask's dashboard, `http://host:port`; None where it has none."""
        ...

    async def relay(self, name: RelayName) -> Endpoint:
        """
        Where that relay listens; one that is the backend's own is started if it is not alive. Cheap: it is asked for
        every few seconds.
        """
        ...


BackendFactory = Callable[[Settings, Path, Fence], Backend]
"""
Makes the backend from the settings and the folder `<home>/<pool>`, which is there and ours alone. The fence is to be asked
before each call that changes anything.
"""


@dataclass(frozen=True, slots=True)
class _Bells:
    poll: Wake
    reap: Wake
    reconcile: Wake


async def run(
    settings: Settings,
    backend_factory: BackendFactory,
    *,
    seat: Seat | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> None:
    """
    Serve the pool until a signal comes; where daemons stand by for each other, whenever the place is ours.

    Raises Refused when something that somebody has to change keeps it from starting: a wrong address or key, a pool of
    another type, another daemon. An API that does not answer is waited for.
    """
    asyncio.get_running_loop().set_default_executor(threads())
    with stopped_by_signals() as stop, ungrouped():
        await take_turns(settings, backend_factory, stop, seat=seat, transport=transport)


async def take_turns(
    settings: Settings,
    backend_factory: BackendFactory,
    stop: asyncio.Event,
    *,
    seat: Seat | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> None:
    """The same until `stop` is set."""
    pool, daemon, health = settings.daemon.pool, settings.daemon, Health()
    if not pool:
        raise Refused("no work pool is given: --pool or FLOWGROUP_POOL")
    folder = folder_of(daemon.home, pool)
    seat = seat or FileSeat(folder, waits=daemon.stand_by)
    async with (
        prefect(settings.prefect, pool, fence=seat.fence, transport=transport) as api,
        serve(health, daemon.health_host, daemon.health_port) as port,
    ):
        backend: Backend | None = None
        while not stop.is_set():
            with suppress(Interrupted):
                await unless(stop, seat.take(health.ready), name="stand by")
                async with seat.kept() as lost:
                    LEADING.set(1)
                    if not seat.has_one_home:  # what we left there is older than what others have opened since
                        (folder / "attempts.json").unlink(missing_ok=True)
                    backend = backend or backend_factory(settings, folder, seat.fence)
                    await unless(
                        lost, _lead(_Place(settings, api, backend, folder, seat.fence), health, port, stop), name="lead"
                    )
            LEADING.set(0)
            for level in (CLUSTERS, WORKERS, RUNS_HELD):  # the next leader shows them
                level.clear()
            health.forget_loops()
            health.pages.clear()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one daemon leads, and by what."""

    settings: Settings
    api: Prefect
    backend: Backend
    folder: Path
    fence: Fence


async def _lead(at: _Place, health: Health, port: int, stop: asyncio.Event) -> None:
    """Serve the pool until `stop` is set."""
    daemon, api = at.settings.daemon, at.api
    api.forget_cached()
    pool = await unless(stop, pool_there(api, at.settings.prefect.api_url), name="start")
    parts = _built(at, pool)
    await unless(stop, clusters_there(parts.clusters), name="adopt")
    async with (
        parts.drivers.serve(at.backend.listen, parts.clusters.secret_of),
        aclosing(parts.relays),
        registered(api, worker_name(daemon, pool.name), at.fence) as worker,
    ):
        standing = _standing(parts, pool.name, worker, daemon, health)
        health.pages["/flowgroup/status"] = standing.told
        dashboards = Dashboards(at.backend.relay_key, at.backend.dashboard) if daemon.dashboards else None
        told = standing.paged(parts.journeys.timings, ui_of(at.settings.prefect), dashboards)
        async with served(daemon, at.folder, told, dashboards) as page:
            with announced(at.folder / "daemon.json", port):
                log.get().info("daemon_started", pool=pool.name, worker=worker, folder=str(at.folder), health_port=port)
                with watched(asyncio.get_running_loop(), Seen(LOOP_LAG.observe, LOOP_BLOCKED.inc)):
                    await until_stopped(stop, _loops(parts, at.settings, api, worker, health, page))
                log.get().info("daemon_stopping")


@dataclass(frozen=True, slots=True)
class _Parts:
    bells: _Bells
    slots: Slots
    drivers: Drivers
    clusters: Clusters
    relays: RelayControls
    attempts: Attempts
    cancels: Cancels
    teller: Teller
    journeys: Journeys
    events: Events | None
    scale: Scale
    answers: Answers
    costs: Costs
    asks: asked_room.Backend
    caps: Caps
    held: Held
    artifacts: Artifacts | None

    def is_streamed(self) -> bool:
        return self.events is not None and self.events.is_connected


def _built(at: _Place, pool: Pool) -> _Parts:
    settings, api, backend, folder = at.settings, at.api, at.backend, at.folder
    daemon, bells, cancels = settings.daemon, _Bells(Wake(), Wake(), Wake()), Cancels()
    teller = Teller(api, Again(api, daemon.infrastructure_retries))
    slots = Slots(daemon.slots, on_free=bells.poll.nudge)
    drivers = Drivers(on_change=bells.reconcile.ring, fence=at.fence)
    clusters = Clusters(
        backend,
        drivers,
        idle_timeout_s=daemon.idle_timeout_s,
        on_free=bells.reap.ring,
        on_turn=bells.poll.ring,
    )
    known_as = digest("daemon", folder.name)[:8]
    key = backend.relay_key
    relays = _relays(at, known_as)
    attempts = Attempts(relays, folder / "attempts.json", Seals(key), daemon=known_as, key=key)
    keys = signing.load_public(daemon.public_keys) if daemon.public_keys else ()
    caps, claims = Caps(limits_of(daemon), clusters, backend.takes), Claims(api, on_open=bells.poll.ring)
    held = Held(api, claims, caps)
    artifacts = Artifacts(api) if daemon.page_port is not None else None
    journeys = Journeys(
        slots=slots,
        caps=caps,
        claims=claims,
        api=api,
        clusters=clusters,
        sender=Sender(clusters, attempts, drivers, Knowledge(api), Shelf(store), keys, ui_of(settings.prefect)),
        watch=Watch(drivers, clusters.look, clusters.fate, daemon.cancel_grace_s, daemon.driver_lost_s),
        attempts=attempts,
        drivers=drivers,
        teller=teller,
        cancels=cancels,
        policy=Policy(pool.name, keys, backend.python, daemon.idle_timeout_s, backend.relay_key, tuple(backend.relays)),
        owner=mark_of(folder, daemon.name),
        cluster_timeout_s=daemon.cluster_timeout_s,
        timings=Timings(on_end=artifacts.ended) if artifacts else Timings(),
    )
    events = Events(settings.prefect, pool.id) if daemon.events else None
    scale = Scale(backend, clusters, drivers)
    answers = Answers(backend, clusters, drivers)
    costs = Costs(clusters, drivers, backend.gpus, pool.name, Named(daemon.metrics_flow_groups))
    parts = _Parts(
        bells=bells,
        slots=slots,
        drivers=drivers,
        clusters=clusters,
        relays=relays,
        attempts=attempts,
        cancels=cancels,
        teller=teller,
        journeys=journeys,
        events=events,
        scale=scale,
        answers=answers,
        costs=costs,
        asks=backend,
        caps=caps,
        held=held,
        artifacts=artifacts,
    )
    api.trust(parts.is_streamed)
    return parts


def _relays(at: _Place, known_as: str) -> RelayControls:
    backend = at.backend

    def control(name: RelayName) -> RelayControl:
        key, ttl_s = backend.relay_key, at.settings.relay.attempt_ttl_s
        return RelayControl(lambda: backend.relay(name), key, ttl_s=ttl_s, daemon=known_as, fence=at.fence)

    return RelayControls(backend.relays, control)


def _standing(parts: _Parts, pool: str, worker: str, daemon: DaemonSettings, health: Health) -> Standing:
    return Standing(
        pool=pool,
        worker=worker,
        backend=daemon.backend,
        clusters=parts.clusters,
        drivers=parts.drivers,
        slots=parts.slots,
        scale=parts.scale,
        is_streamed=parts.is_streamed,
        stuck=health.stuck,
    )


def _loops(parts: _Parts, settings: Settings, api: Prefect, worker: str, health: Health, page: str | None) -> Loops:
    """Every loop of the daemon, by its name. None of them ends by itself. `page` is the page's address."""
    daemon = settings.daemon
    rhythm = Rhythm(daemon.poll_interval_s, daemon.poll_ahead_s, daemon.claim_ahead_s, daemon.queues)
    poll = Poll(
        api,
        parts.journeys.carry,
        parts.slots,
        parts.bells.poll,
        rhythm,
        moved=health.loop("poll", limit_s=_STUCK_S + daemon.poll_interval_s),
        first_done=health.ready,
        is_streamed=parts.is_streamed,
        held=parts.held,
    )
    reconcile = Reconcile(
        api,
        parts.clusters,
        parts.drivers,
        parts.slots,
        parts.teller,
        parts.attempts,
        parts.journeys.resume,
        parts.bells.reconcile,
        parts.journeys.owner,
        health.loop("reconcile", limit_s=_STUCK_S),
    )
    prewarm = Prewarm(
        api,
        parts.clusters,
        parts.caps,
        parts.journeys.policy,
        Ahead(daemon.prewarm_s, daemon.prewarm_clusters, daemon.queues),
        lambda: parts.slots.held,
        moved=health.loop("prewarm", limit_s=_STUCK_S),
    )
    events = parts.events
    loops: Loops = {
        "attempts": parts.attempts.extend(health.loop("attempts", limit_s=_STUCK_S)),
        "reconcile": reconcile.run(),
        "poll": poll.run(),
        "cancel": look_for_cancelling(
            api,
            parts.cancels,
            parts.is_streamed,
            health.loop("cancel", limit_s=_STUCK_S),
        ),
        "reap": reap(
            parts.clusters, parts.bells.reap, health.loop("reap", limit_s=_STUCK_S), settled=reconcile.is_settled
        ),
        "costs": parts.costs.run(health.loop("costs", limit_s=_STUCK_S)),
        "scale": parts.scale.run(health.loop("scale", limit_s=_STUCK_S)),
        "losses": parts.answers.run(health.loop("losses", limit_s=_STUCK_S)),
        "asked": asked_room.follow(parts.asks, parts.clusters, parts.scale, health.loop("asked", limit_s=_STUCK_S)),
        "shortage": Shortage(api, parts.clusters, parts.drivers).run(health.loop("shortage", limit_s=_STUCK_S)),
        "heartbeat": beat(
            api,
            worker,
            daemon.heartbeat_interval_s,
            health.loop("heartbeat", limit_s=_STUCK_S + daemon.heartbeat_interval_s),
            lambda: made_again(api, events),
        ),
    }
    if every_s := parts.clusters.renew_every_s:
        loops["keep"] = keep(parts.clusters, every_s, health.loop("keep", limit_s=_STUCK_S + every_s))
    if parts.artifacts is not None and page is not None:
        loops["artifacts"] = parts.artifacts.run(page, health.loop("artifacts", limit_s=_STUCK_S))
    if daemon.prewarm_s > 0:
        loops["prewarm"] = prewarm.run()
    if events is not None:
        loops["events"] = listen(events, parts.bells.poll, parts.cancels, api.forget_cached)
        channel = Channel(settings.prefect, api.pool, worker, daemon.heartbeat_interval_s)
        loops["teardown"] = tear_down(channel, parts.cancels, parts.attempts)
    return loops
