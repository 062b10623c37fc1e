"""What objects of clusters are called and labelled: the same in every daemon, so that all is found again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flowgroup.edge.kubernetes.sizes import Sizes
from flowgroup.model.ids import ClusterName, RelayName, digest, slug
from flowgroup.model.spec import ClusterSpec
from flowgroup.settings import KubernetesSettings

MANAGED_BY = "app.kubernetes.io/managed-by"
POOL = "flowgroup.dev/pool"
CLUSTER = "flowgroup.dev/cluster"
ROLE = "flowgroup.dev/role"
POOL_NAME = "flowgroup.dev/pool-name"
FLOW_NAME = "flowgroup.dev/flow-name"
FLOW_ID = "flowgroup.dev/flow-id"
MODE = "flowgroup.dev/mode"
WORKERS = "flowgroup.dev/workers"
RELAY = "flowgroup.dev/relay"
KEY = "flowgroup.dev/key"
RENEWED_AT = "flowgroup.dev/renewed-at"
GOOD_FOR_S = "flowgroup.dev/good-for-s"
ASKED_RESET = "flowgroup.dev/asked-reset"
ASKED_SCALE = "flowgroup.dev/asked-scale"
DASK_COMPONENT = "dask.org/component"
DASK_GROUP = "dask.org/workergroup-name"
DASK_NAME = "DASK_WORKER_NAME"

DRIVER, SCHEDULER, WORKER = "driver", "scheduler", "worker"


@dataclass(frozen=True)
class Ground:
    """
    What all clusters of one daemon stand on. `pool` is the work pool's name, `driver_env` what every process of a
    cluster gets beside its spec's environment.
    """

    pool: str
    namespace: str
    settings: KubernetesSettings
    sizes: Sizes = field(default_factory=Sizes)
    driver_env: Mapping[str, str] = field(default_factory=dict)
    scale_idle_s: float = 30.0
    dashboard: Callable[[ClusterName], str] | None = None
    """The path at which a cluster's scheduler has Dask's dashboard; without it none has one."""

    def at(self, relay: RelayName) -> str:
        """That relay's address, as drivers and the daemon reach it."""
        return relay or self.settings.relay_address[0]


def of_pool(pool: str) -> str:
    """The value of the label that all objects of a pool carry."""
    return f"{slug(pool)}-{digest(pool)[:12]}"


def labels(name: ClusterName, pool: str, **more: str) -> dict[str, str]:
    """What every object of a cluster carries. The operator copies them into selectors: they never change."""
    return {MANAGED_BY: "flowgroup", POOL: of_pool(pool), CLUSTER: name, **more}


def annotations(spec: ClusterSpec, pool: str) -> dict[str, str]:
    """
    Full names, and the relay where there are several, for people; and how many workers there may be, so that who looks
    knows whether to expect any.
    """
    workers = sum(numbers.most for numbers in spec.groups)
    return {
        POOL_NAME: pool,
        FLOW_NAME: spec.flow_name,
        FLOW_ID: spec.flow_id,
        MODE: spec.mode,
        WORKERS: str(workers),
    } | ({RELAY: spec.relay} if spec.relay else {})


def worker_group(name: ClusterName, group: str) -> str:
    """A group's DaskWorkerGroup. The operator makes the default one, and names workers `<this>-worker-<digits>`."""
    return f"{name}-{group}"


def driver_pod(name: ClusterName) -> str:
    return f"{name}-driver"


def scheduler(name: ClusterName) -> str:
    """The scheduler's Deployment and Service, as the operator names them."""
    return f"{name}-scheduler"
