"""
Why a pod will never serve, or why it does not serve yet: cause and remedy, in words for the run's author. Pure.

A pod that waits for a node or for an image is alive: an autoscaler of nodes, or a registry, may take minutes.
"""

import re
from collections.abc import Sequence

from flowgroup.edge.kubernetes.extras import START_FAILED
from flowgroup.edge.kubernetes.names import DRIVER, WORKER
from flowgroup.edge.kubernetes.seen import Container, Pod

_NOT_PULLED = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"}
)
_NEVER_PULLED = frozenset({"ErrImageNeverPull", "InvalidImageName"})
_REFUSED_BY_REGISTRY = re.compile(
    r"not found|manifest unknown|denied|unauthorized|forbidden|no such image|does not exist|invalid reference",
    re.IGNORECASE,
)
_NO_SUCH_HOST = re.compile(r"no such host|dial tcp|timeout|connection refused|i/o", re.IGNORECASE)
_ORDINARY = frozenset({"", "ContainerCreating", "PodInitializing"})
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError"})
_EXEC = re.compile(r'exec:? "?([^"\s:]+)"?: (?:executable file not found|stat|no such file|permission denied)')
# What a process of ours imports before any code of an author's: that this is not there is the image's fault.
_NEEDED = (
    "flowgroup prefect prefect_dask dask distributed cloudpickle tornado msgpack click yaml certifi cryptography httpx obstore "
    "prometheus_client pydantic pydantic_settings starlette structlog tenacity threadpoolctl uvicorn websockets"
)
_OURS = "|".join(name.replace("_", "[_-]") for name in _NEEDED.split())
_MODULE = re.compile(rf"No module named '?({_OURS})(?![\w-])")
_PACKAGE = re.compile(rf"No package metadata was found for ({_OURS})(?![\w-])")
_CRASHES = 3
_LOST_S = 30.0
_SAID_CHARS = 1000
_SIZE_OF = {DRIVER: "driver_size", WORKER: "worker_size"}


def ended(pod: Pod, *, now: float) -> str | None:
    """
    Why a driver's pod has ended or is as good as gone, None while it may serve. `now`: seconds since 1970.

    It is never started again. Its last lines are not in it: who has them adds them.
    """
    if pod.leaves_at is not None and now > pod.leaves_at + _LOST_S:
        return f"the {pod.role}'s pod does not end although it was deleted: its node is lost"
    if pod.phase not in ("Failed", "Succeeded"):
        return None
    if pod.reason == "Evicted":
        return (
            f"the {pod.role}'s pod was evicted from its node: {pod.message} Ask for more memory or ephemeral storage "
            f"by a larger {_size(pod)}."
        )
    failed = next((entry for entry in pod.containers if entry.state == "terminated"), None)
    if failed is None or pod.disruption:
        return f"the {pod.role}'s pod was ended: {pod.disruption or pod.message or pod.reason or 'nobody says why'}"
    return _terminated(pod, failed)


def crashes(pod: Pod) -> Container | None:
    """The container that ends again and again although it is started again, if there is one."""
    for entry in pod.containers:
        wanted = 1 if _is_certain(entry) else _CRASHES
        if entry.restarts >= wanted and entry.reason in ("CrashLoopBackOff", *_NOT_STARTED):
            return entry
    return None


def crashed(pod: Pod, entry: Container, *, by_name: bool = False) -> str:
    """What a container that ends again and again did last. Without its name many pods that say the same are one reason."""
    where = f" (pod {pod.name})" if by_name else ""
    return f"the {pod.role}{where} ends again and again: {_how(pod, entry.ended, entry.exit_code, entry.last_words)}"


def no_worker(workers: Sequence[Pod]) -> str | None:
    """Why none of these workers will ever serve: each has ended, and would end the same way again. None if one may."""
    staying = [pod for pod in workers if pod.leaves_at is None]
    ends = [(pod, entry) for pod in staying if (entry := crashes(pod)) and _is_certain(entry)]
    if not ends or len(ends) < len(staying):
        return None
    return f"no worker can start ({len(ends)} of {len(staying)} have ended): {crashed(*ends[0], by_name=True)}"


def lacking(said: str) -> str | None:
    """What an image lacks, by what its process or the container's runtime said last; None if it is nothing of that kind."""
    if found := _EXEC.search(said):
        what = f"there is no {found[1]} in it that could be run (by its PATH, or by the one that the deployment's env sets)"
    elif found := _MODULE.search(said) or _PACKAGE.search(said):
        what = f"the Python package {found[1]} is not in it"
    else:
        return None
    return (
        f"The image cannot be used: {what}. An image of your own needs Python and flowgroup[runtime], and bash for a start "
        "script: build it FROM flowgroup's runtime image, or install flowgroup[runtime] in it."
    )


def not_pulled(pod: Pod) -> tuple[str, bool] | None:
    """Why an image is not there, and whether it is the registry or the name that says so: what only a person changes."""
    for entry in pod.containers:
        if entry.state == "waiting" and entry.reason in _NOT_PULLED:
            certain = bool(_REFUSED_BY_REGISTRY.search(entry.message)) and not _NO_SUCH_HOST.search(entry.message)
            reason = (
                f"the image of the {pod.role} cannot be pulled ({entry.reason}): {entry.message or 'nobody says why'}. "
                "Is its name right, and does the namespace have the registry's credentials "
                "(FLOWGROUP_KUBERNETES_IMAGE_PULL_SECRETS)?"
            )
            return reason, certain or entry.reason in _NEVER_PULLED
    return None


def never_pulled(pod: Pod) -> bool:
    """Whether it is certain at once: nobody will even try to pull it."""
    return any(entry.state == "waiting" and entry.reason in _NEVER_PULLED for entry in pod.containers)


def waits(pod: Pod) -> str | None:
    """Why a pod does not run yet, None if it does or only takes its time."""
    if pod.unschedulable and pod.phase == "Pending":
        return (
            f"the {pod.role}'s pod cannot be scheduled: {pod.unschedulable} A node that fits may still come; "
            f"else choose another {_size(pod)}."
        )
    if pulled := not_pulled(pod):
        return pulled[0]
    if entry := crashes(pod):
        return crashed(pod, entry)
    for entry in pod.containers:
        if entry.state == "waiting" and entry.reason not in _ORDINARY:
            return f"the {pod.role}'s container does not start ({entry.reason}): {entry.message}"
    return None


def why_waiting(pods: Sequence[Pod], workers: int) -> str | None:
    """What a whole cluster waits for, the driver first and what is the same for many pods once."""
    order = {DRIVER: 0, WORKER: 2}
    said: dict[str, list[Pod]] = {}
    for pod in sorted(pods, key=lambda pod: order.get(pod.role, 1)):
        if reason := waits(pod):
            said.setdefault(reason, []).append(pod)
    told = [
        f"{len(those)} of {workers} workers: {reason}" if those[0].role == WORKER else reason
        for reason, those in said.items()
    ]
    return " ".join(told) or None


def _terminated(pod: Pod, entry: Container) -> str:
    return f"the {pod.role} ended: {_how(pod, entry.reason, entry.exit_code, entry.message)}"


def _how(pod: Pod, reason: str, code: int | None, message: str = "") -> str:
    if reason == "OOMKilled":
        return f"it took more memory than its limit (OOMKilled). Give it more by a larger {_size(pod)}."
    if lacks := lacking(message):
        return lacks
    if reason in _NOT_STARTED:
        return f"its command cannot be started ({reason}): {message[:300]}. The image must have Python and flowgroup[runtime]."
    if code == START_FAILED:
        return f"its start script failed. Its last lines:\n{message[-_SAID_CHARS:].strip()}"
    return f"exit status {code}{f' ({reason})' if reason not in ('', 'Error', 'Completed') else ''}."


def _is_certain(entry: Container) -> bool:
    """Whether another try would end the same way."""
    return entry.exit_code == START_FAILED or bool(lacking(entry.last_words))


def _size(pod: Pod) -> str:
    return _SIZE_OF.get(pod.role, "scheduler_size")
