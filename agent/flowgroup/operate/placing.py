"""The daemon's own way from a run or a deployment to a cluster, without the daemon: for `plan` and `render`."""

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flowgroup import signing
from flowgroup.daemon.placement import Policy
from flowgroup.edge.files import read_text
from flowgroup.edge.kubernetes.names import Ground
from flowgroup.edge.kubernetes.sizes import Sizes
from flowgroup.edge.kubernetes.takes import takes
from flowgroup.errors import Refused
from flowgroup.model.clusters import Takes
from flowgroup.model.dashboards import path
from flowgroup.model.ids import FIRST_RELAY, RelayName
from flowgroup.model.spec import ClusterSpec
from flowgroup.operate.place import Place
from flowgroup.settings import Settings, environment_for_pods

_NOWHERE = "tls://daemon.invalid:8443"
_NO_KEY = "nobody's"
_NO_RELAY = "https://relay.invalid:4280"


def policy_of(where: Place) -> Policy:
    """What the daemon of these settings adds. Without its control key names of generations with secret values differ."""
    daemon, on_kubernetes = where.settings.daemon, where.is_on_kubernetes
    key_file = where.settings.relay.control_key_file if on_kubernetes else where.folder / "relay.key"
    return Policy(
        pool=where.pool,
        public_keys=signing.load_public(daemon.public_keys) if daemon.public_keys else (),
        python=None if on_kubernetes else ".".join(platform.python_version_tuple()[:2]),
        idle_timeout_s=daemon.idle_timeout_s,
        key=_key_in(key_file),
        relays=_relays(where.settings) if on_kubernetes else (FIRST_RELAY,),
    )


def ground_of(settings: Settings, pool: str) -> Ground:
    """What clusters stand on; addresses that are not set are shown as ones that nobody has."""
    own = settings.kubernetes
    said = own.model_copy(
        update={
            "daemon_address": own.daemon_address or _NOWHERE,
            "relay_address": own.relay_address or (_NO_RELAY,),
        }
    )
    return Ground(
        pool=pool,
        namespace=own.namespace or "default",
        settings=said,
        sizes=Sizes.read(own.sizes),
        driver_env=environment_for_pods(settings.driver),
        scale_idle_s=settings.driver.scale_idle_s,
        dashboard=partial(path, _NO_KEY) if settings.daemon.dashboards else None,
    )


def takes_of(where: Place) -> Callable[[ClusterSpec], Takes]:
    """
    What a cluster takes at most. Of one that was made with a size that is not in the catalogue any more: that it is one.

    The images do not count, and need not be known here.
    """
    if not where.is_on_kubernetes:
        return Takes.as_processes
    ground = ground_of(where.settings, where.pool)

    def as_pods(spec: ClusterSpec) -> Takes:
        try:
            return takes(spec.model_copy(update={"image": "any"}), ground)
        except Refused:
            return Takes()

    return as_pods


def _relays(settings: Settings) -> tuple[RelayName, ...]:
    return (FIRST_RELAY, *map(RelayName, settings.kubernetes.relay_address[1:]))


def _key_in(file: Path | None) -> str:
    return (read_text(file) or "").strip() if file else ""
