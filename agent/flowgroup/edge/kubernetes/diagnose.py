"""
Why a pod will never serve, or why it does not serve yet: cause and remedy, in words for the run's author. Pure.

A pod that waits for a node or for an image is alive: an autoscaler of nodes, or a registry, may take minutes. The words are
rows of `model/causes/`; which row it is is decided here, and by what Kubernetes says in `rules.py`.
"""

import re
from collections.abc import Iterable, Sequence

from flowgroup.edge.kubernetes import rules
from flowgroup.edge.kubernetes.extras import START_FAILED
from flowgroup.edge.kubernetes.names import DRIVER, WORKER
from flowgroup.edge.kubernetes.seen import Container, Pod
from flowgroup.edge.kubernetes.sizes import bytes_of
from flowgroup.model.causes import said

_NOT_PULLED = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"}
)
_ORDINARY = frozenset({"", "ContainerCreating", "PodInitializing"})
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError"})
_NOT_CONFIGURED = "CreateContainerConfigError"
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
_LAST_LINES = " Its last lines:\n"
_LOST_S = 30.0
_LATELY_S = 900.0
_SAID_CHARS = 1000
_SIGKILLED = 137
_ASKED_TO_END = (0, 143)  # what a process ends with that gets SIGTERM
_SIZE_OF = {DRIVER: "driver_size", WORKER: "worker_size"}


def ended(pod: Pod, *, now: float) -> str | None:
    """
    Why a driver's pod has ended or is as good as gone, None while it may serve. `now`: seconds since 1970.

    It is never started again. Its last lines are not in it: who has them adds them.
    """
    if pod.leaves_at is not None and now > pod.leaves_at + _LOST_S:
        return said("node-lost", who=pod.role, said="it was deleted, and does not end.")
    if pod.phase not in ("Failed", "Succeeded"):
        return None
    if told := _of_whole(pod):
        return told
    failed = next((entry for entry in pod.containers if entry.state == "terminated"), None)
    if pod.leaves_at is not None and failed and failed.exit_code in _ASKED_TO_END:
        return said("pod-deleted", who=pod.role)
    if failed:
        return _terminated(pod, failed)
    return said("pod-ended", who=pod.role, said=pod.disruption or pod.message or pod.reason)


def with_last_lines(cause: str, lines: str) -> str:
    """A cause and what its process said last, unless that is in it already. What an image lacks comes first."""
    if not lines or _LAST_LINES in cause:
        return cause
    lacks = lacking(lines)
    cause = f"{lacks} That is: {cause}" if lacks and lacks not in cause else cause
    return f"{cause}{_LAST_LINES}{lines}"


def gone(pod: Pod | None, role: str) -> str:
    """Why a pod is not there any more, by how it was seen last."""
    return (_of_whole(pod) if pod else None) or said("pod-deleted", who=role)


def losses(pods: Iterable[Pod], *, now: float) -> dict[str, str]:
    """Of schedulers and workers whose container ended lately, or whose pod goes: how, by the name that Dask knows them by."""
    found = {}
    for pod in pods:
        last = next((entry for entry in pod.containers if _ended_lately(entry, now)), None)
        if told := _of_whole(pod) or (_terminated(pod, last) if last else None):
            found[pod.dask_name or pod.role] = told
    return found


def _ended_lately(entry: Container, now: float) -> bool:
    return entry.exit_code is not None and (entry.ended_at is None or now - entry.ended_at < _LATELY_S)


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
    return _how(pod, entry, f"{where} ends again and again", otherwise="crash-loop")


def no_worker(workers: Sequence[Pod]) -> str | None:
    """Why none of these workers will ever serve: each has ended, and would end the same way again. None if one may."""
    staying = [pod for pod in workers if pod.leaves_at is None]
    ends = [(pod, entry) for pod in staying if (entry := crashes(pod)) and _is_certain(entry)]
    if not ends or len(ends) < len(staying):
        return None
    return f"no worker can start ({len(ends)} of {len(staying)} have ended): {crashed(*ends[0], by_name=True)}"


def lacking(words: str) -> str | None:
    """What an image lacks, by what its process or the container's runtime said last; None if it is nothing of that kind."""
    if found := _EXEC.search(words):
        what = f"there is no {found[1]} in it that could be run (by its PATH, or by the one that the deployment's env sets)"
    elif found := _MODULE.search(words) or _PACKAGE.search(words):
        what = f"the Python package {found[1]} is not in it"
    else:
        return None
    return said("image-lacks", said=what)


def not_pulled(pod: Pod) -> tuple[str, bool] | None:
    """Why an image is not there, and whether it is the registry or the name that says so: what only a person changes."""
    for entry in pod.containers:
        if entry.state == "waiting" and entry.reason in _NOT_PULLED:
            code = _code_of_image(entry)
            told = said(code, who=pod.role, reason=entry.reason, said=entry.message)
            return told, code in rules.IMAGE_CERTAIN
    return None


def never_pulled(pod: Pod) -> bool:
    """Whether it is certain at once: nobody will even try to pull it."""
    return any(entry.state == "waiting" and entry.reason in rules.IMAGE_BY_REASON for entry in pod.containers)


def not_configured(pod: Pod) -> str | None:
    """What a container refers to that is not there, as its status says it."""
    for entry in pod.containers:
        if entry.state == "waiting" and entry.reason == _NOT_CONFIGURED:
            return refers(pod, entry.message)
    return None


def refers(pod: Pod, words: str) -> str:
    """What kubelet says of a Secret, a ConfigMap or a key that is not there."""
    return said(rules.code_for(rules.REFERENCE, words, "container-config"), who=pod.role, said=words)


def of_events(pod: Pod, events: Iterable[tuple[str, str]]) -> tuple[str, bool] | None:
    """
    What holds a pod up that is being created, by its events (reason and message, the latest last), and whether it refers to
    what is not there. Once an image is looked for all volumes are mounted, and what was said of them before is over.
    """
    told = list(events)
    if any(reason in rules.ON_ITS_WAY for reason, _ in told):
        return None
    for reason, words in reversed(told):
        code = rules.code_for(rules.EVENTS, reason, "")
        if code and rules.code_for(rules.REFERENCE, words, ""):
            return refers(pod, words), True
        if code:
            return said(code, who=pod.role, said=words[:_SAID_CHARS]), False
    return None


def waits(pod: Pod) -> str | None:
    """Why a pod does not run yet, None if it does or only takes its time."""
    if pod.unschedulable and pod.phase == "Pending":
        code = rules.code_for(rules.UNSCHEDULABLE, pod.unschedulable, "unschedulable")
        return said(code, who=pod.role, said=pod.unschedulable, size=_size(pod))
    if pulled := not_pulled(pod):
        return pulled[0]
    if entry := crashes(pod):
        return crashed(pod, entry)
    return not_configured(pod) or next(filter(None, (_not_started(pod, entry) for entry in pod.containers)), None)


def _not_started(pod: Pod, entry: Container) -> str | None:
    if entry.state != "waiting" or entry.reason in _ORDINARY:
        return None
    if entry.reason in _NOT_STARTED:
        return _how(pod, entry, "", otherwise="not-starting")
    return said("not-starting", who=pod.role, reason=entry.reason, said=entry.message)


def why_waiting(pods: Sequence[Pod], workers: int) -> str | None:
    """What a whole cluster waits for, the driver first and what is the same for many pods once."""
    order = {DRIVER: 0, WORKER: 2}
    found: dict[str, list[Pod]] = {}
    for pod in sorted(pods, key=lambda pod: order.get(pod.role, 1)):
        if reason := waits(pod):
            found.setdefault(reason, []).append(pod)
    told = [
        f"{len(those)} of {workers} workers: {reason}" if those[0].role == WORKER else reason
        for reason, those in found.items()
    ]
    return " ".join(told) or None


def _of_whole(pod: Pod) -> str | None:
    """Why the whole pod was ended, if it was not its container's own doing."""
    words = pod.disruption or pod.message or pod.reason
    if pod.reason == "Evicted":
        code = rules.code_for(rules.EVICTED, pod.message, "evicted")
        return said(code, who=pod.role, said=pod.message, size=_size(pod))
    if any(entry.reason == "ContainerStatusUnknown" for entry in pod.containers):
        return said("node-lost", who=pod.role, said=words or "what became of its container is not known.")
    for reason in (pod.disruption_reason, pod.reason):
        if code := rules.code_for(rules.ENDED, reason, ""):
            return said(code, who=pod.role, said=words, reason=reason)
    return None


def _terminated(pod: Pod, entry: Container) -> str:
    return _how(pod, entry, f" (pod {pod.name}) ended", otherwise="container-exit")


def _how(pod: Pod, entry: Container, where: str, *, otherwise: str) -> str:
    """How a container ended, now or the last time."""
    is_over = entry.state == "terminated"
    reason = entry.reason if is_over or entry.reason in _NOT_STARTED else entry.ended
    words = entry.message if is_over or not entry.last_words else entry.last_words
    if "OOMKilled" in (reason, entry.ended):
        return _oom(pod, entry, where)
    if lacks := lacking(words):
        return f"the {pod.role}{where}: {lacks}"
    facts = {"who": pod.role, "where": where}
    if reason in _NOT_STARTED:
        return said("container-cannot-start", **facts, reason=reason, said=words[:300])
    if entry.exit_code == START_FAILED:
        return f"{said('start-script', **facts)}{_LAST_LINES}{words[-_SAID_CHARS:].strip()}"
    if entry.exit_code == _SIGKILLED and otherwise == "container-exit":
        return said("container-killed", **facts)
    told = f" ({reason})" if reason not in ("", "Error", "Completed") else ""
    return said(otherwise, **facts, status=entry.exit_code, reason=told)


def _oom(pod: Pod, entry: Container, where: str) -> str:
    if not entry.memory_limit:
        return said("oom-node", who=pod.role, peak="")
    return said("oom-container", who=pod.role, where=where, limit=f" ({_gib(entry.memory_limit)})", size=_size(pod))


def _gib(quantity: str) -> str:
    """An amount of memory for people. Kubernetes has ways to write it that nobody uses for memory; those stay as they are."""
    try:
        return f"{bytes_of(quantity) / 2**30:.2f} GiB"
    except ValueError:
        return quantity


def _code_of_image(entry: Container) -> str:
    return rules.IMAGE_BY_REASON.get(entry.reason) or rules.code_for(rules.IMAGE, entry.message, "image-not-pulled")


def _is_certain(entry: Container) -> bool:
    """Whether another try would end the same way."""
    return entry.exit_code == START_FAILED or bool(lacking(entry.last_words))


def _size(pod: Pod) -> str:
    return _SIZE_OF.get(pod.role, "scheduler_size")
