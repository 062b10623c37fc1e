"""What Kubernetes says of a cluster's objects, as our own types. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flowgroup.edge.kubernetes.names import (
    ASKED_RESET,
    ASKED_SCALE,
    CLUSTER,
    DASK_COMPONENT,
    DASK_NAME,
    GOOD_FOR_S,
    RENEWED_AT,
    ROLE,
    WORKERS,
)
from flowgroup.model.clusters import Ask
from flowgroup.model.ids import ClusterName
from flowgroup.model.parts import Json, count, mapping, mappings

_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Container:
    """
    `state` is waiting, running, terminated or "". `exit_code`, `ended`, `ended_at` and `last_words` are of this state, else of
    the one before. `memory_limit` as Kubernetes writes it, "" without one.
    """

    name: str
    state: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    ended: str = ""
    last_words: str = ""
    restarts: int = 0
    memory_limit: str = ""
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """
    `unschedulable` is what the scheduler says of a pod that it cannot place. `image` is the one that it shall run, `image_id`
    the one that it does. `leaves_at`: seconds since 1970. `dask_name`: what Dask knows a worker by.
    """

    name: str
    uid: str
    cluster: ClusterName
    role: str
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    disruption: str = ""
    disruption_reason: str = ""
    unschedulable: str = ""
    containers: tuple[Container, ...] = ()
    leaves_at: float | None = None
    image: str = ""
    image_id: str = ""
    dask_name: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """
    A DaskCluster. `made_at` and `renewed_at` are of the API server's clock: seconds since 1970. A daemon says with each
    renewal for how long it is good.
    """

    name: ClusterName
    uid: str
    made_at: float
    is_leaving: bool
    workers: int
    finalizers: tuple[str, ...] = ()
    version: str = ""
    renewed_at: float = 0.0
    good_for_s: float = 0.0
    ask: Ask = field(default_factory=Ask)


def pod(item: Json) -> Pod:
    """A Pod as the API gives it."""
    metadata, status, spec = mapping(item.get("metadata")), mapping(item.get("status")), mapping(item.get("spec"))
    labels = mapping(metadata.get("labels"))
    conditions = {str(entry.get("type")): entry for entry in mappings(status.get("conditions"))}
    limits = {str(entry.get("name")): _memory_limit(entry) for entry in mappings(spec.get("containers"))}
    statuses = [*mappings(status.get("initContainerStatuses")), *mappings(status.get("containerStatuses"))]
    return Pod(
        name=str(metadata.get("name")),
        uid=str(metadata.get("uid")),
        cluster=ClusterName(str(labels.get(CLUSTER))),
        role=str(labels.get(ROLE) or labels.get(DASK_COMPONENT)),
        phase=str(status.get("phase") or "Pending"),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        disruption=_condition(conditions.get("DisruptionTarget"), "True"),
        disruption_reason=_condition(conditions.get("DisruptionTarget"), "True", of="reason"),
        unschedulable=_condition(conditions.get("PodScheduled"), "False"),
        containers=tuple(_container(entry, limits) for entry in statuses),
        leaves_at=_seconds(metadata.get("deletionTimestamp")),
        image=_first(spec, "containers", "image"),
        image_id=_first(status, "containerStatuses", "imageID"),
        dask_name=_dask_name(spec),
    )


def owner(item: Json) -> Owner:
    """A DaskCluster, of which the metadata are enough."""
    metadata = mapping(item.get("metadata"))
    noted = mapping(metadata.get("annotations"))
    made_at = _seconds(metadata.get("creationTimestamp")) or 0.0
    return Owner(
        name=ClusterName(str(metadata.get("name"))),
        uid=str(metadata.get("uid")),
        made_at=made_at,
        is_leaving=bool(metadata.get("deletionTimestamp")),
        workers=_number(noted.get(WORKERS)),
        finalizers=_texts(metadata.get("finalizers")),
        version=str(metadata.get("resourceVersion") or ""),
        renewed_at=_seconds(noted.get(RENEWED_AT)) or made_at,
        good_for_s=float(_number(noted.get(GOOD_FOR_S))),
        ask=_ask(noted),
    )


def _ask(noted: Json) -> Ask:
    """Two annotations, so that who writes one leaves the other."""
    ask = Ask.read(noted.get(ASKED_SCALE))
    return ask.model_copy(update={"reset": bool(noted.get(ASKED_RESET))})


def belongs(manifest: Json, uid: str) -> bool:
    """Whether the object is owned by the one with that uid."""
    return any(owner.get("uid") == uid for owner in manifest["metadata"].get("ownerReferences") or ())


def moment(at: float) -> str:
    """Seconds since 1970 as Kubernetes writes times."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def replica_failure(deployment: Json) -> str:
    """Why a Deployment cannot make its pods, "" if it can: a quota, an admission rule."""
    for entry in mappings(mapping(deployment.get("status")).get("conditions")):
        if entry.get("type") == "ReplicaFailure" and entry.get("status") == "True":
            return str(entry.get("message") or entry.get("reason") or "ReplicaFailure")
    return ""


def _first(part: Json, entries: str, name: str) -> str:
    return next((str(entry.get(name) or "") for entry in mappings(part.get(entries))), "")


def _texts(value: object) -> tuple[str, ...]:
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()


def _memory_limit(container: Json) -> str:
    return str(mapping(mapping(container.get("resources")).get("limits")).get("memory") or "")


def _dask_name(spec: Json) -> str:
    """The operator tells each worker its name by a variable."""
    variables = [entry for one in mappings(spec.get("containers")) for entry in mappings(one.get("env"))]
    return next((str(entry.get("value") or "") for entry in variables if entry.get("name") == DASK_NAME), "")


def _condition(entry: Json | None, status: str, *, of: str = "message") -> str:
    if not entry or entry.get("status") != status:
        return ""
    return str(entry.get(of) or entry.get("reason") or "")


def _container(entry: Json, limits: Mapping[str, str]) -> Container:
    state = mapping(entry.get("state"))
    name = next(iter(state), "")
    now = mapping(state.get(name))
    before = mapping(mapping(entry.get("lastState")).get("terminated"))
    ended = now if name == "terminated" else before
    code = ended.get("exitCode")
    return Container(
        name=str(entry.get("name")),
        state=name,
        reason=str(now.get("reason") or ""),
        message=str(now.get("message") or ""),
        exit_code=code if isinstance(code, int) else None,
        ended=str(ended.get("reason") or ""),
        last_words=str(ended.get("message") or ""),
        restarts=count(entry.get("restartCount")),
        memory_limit=limits.get(str(entry.get("name")), ""),
        ended_at=_seconds(ended.get("finishedAt")),
    )


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < _DIGITS else 0


def _seconds(moment: object) -> float | None:
    if not isinstance(moment, str):
        return None
    try:
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
