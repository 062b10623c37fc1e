"""
What the pods of a cluster are. Pure.

All are accepted by a namespace with Pod Security `restricted`: no root, nothing writable but two empty folders, no token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowgroup.edge.dask import QUIET, QUIET_DIALS, SHORT_LOGS, WORKER_PRELOAD, dask_resources, scaling
from flowgroup.edge.kubernetes import extras
from flowgroup.edge.kubernetes.names import DRIVER, Ground, driver_pod, scheduler, worker_group
from flowgroup.edge.kubernetes.sizes import Size, bytes_of
from flowgroup.errors import Refused
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import WorkerGroup

Json = dict[str, Any]

USER = 10001
SCHEDULER_PORT = 8786
DASHBOARD_PORT = 8787
LEVELS_PORT = 8788
FOLDER = "/var/lib/flowgroup"
SPEC_FOLDER, SECRET_FOLDER, CA_FOLDER = "/etc/flowgroup/cluster", "/etc/flowgroup/secret", "/etc/flowgroup/ca"
SPEC_KEY, SECRET_KEY, CA_KEY = "spec.json", "secret", "ca.crt"
_GRACE_S = 10
# Nobody has an entry for this user in an author's image, and getpass.getuser() wants a name.
_SOMEBODY = {"HOME": "/tmp", "USER": "flowgroup", "LOGNAME": "flowgroup"}  # noqa: S108
# What a nanny would set for its worker; there is none, for kubelet starts a worker again that has ended.
_AS_A_NANNY = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_STAY = "import signal; signal.signal(15, lambda *_: exit()); signal.pause()"


@dataclass(frozen=True, slots=True)
class _Share:
    """What a container asks for when its size says nothing: amounts of CPU, and bytes at least and at most."""

    cpu: str
    memory: str
    memory_limit: str


_DRIVER_SHARE = _Share("100m", "512Mi", "4Gi")
_SCHEDULER_SHARE = _Share("50m", "256Mi", "2Gi")
_WORKER_SHARE = _Share("100m", "512Mi", "2Gi")
_NOTHING_SHARE = _Share("1m", "16Mi", "64Mi")


def driver(spec: ClusterSpec, ground: Ground) -> Json:
    """The driver's PodSpec. It is never started again: what it ran is lost with it, and the daemon makes a new cluster."""
    size = ground.sizes.size(spec.driver_size, of="driver_size")
    volumes = [
        {"name": "cluster", "configMap": {"name": spec.name}},
        {"name": "secret", "secret": {"secretName": spec.name, "defaultMode": 0o440}},
    ]
    mounts = [_mount("cluster", SPEC_FOLDER), _mount("secret", SECRET_FOLDER)]
    if ground.settings.ca_config_map:
        volumes.append({"name": "ca", "configMap": {"name": ground.settings.ca_config_map}})
        mounts.append(_mount("ca", CA_FOLDER))
    container = _container(
        DRIVER,
        _image(spec.image, ground),
        _driver_command(spec, ground),
        env={**ground.driver_env, **spec.env},
        resources=_resources(size, _DRIVER_SHARE),
        ground=ground,
    )
    container["volumeMounts"] += mounts
    pod = extras.added(_pod(container, size, ground, volumes), spec, ground)
    return {**pod, "restartPolicy": "Never", "hostname": driver_pod(spec.name)[:63]}


def dask_scheduler(spec: ClusterSpec, ground: Ground) -> Json:
    """
    The scheduler's PodSpec. A cluster without workers has none, but the operator makes a pod in any case: it does nothing.

    It has no readiness probe: who dials tries again, and a probe would only be later than the port.
    """
    size = ground.sizes.size(spec.scheduler_size, of="scheduler_size")
    serve = ["--host", "0.0.0.0", "--port", str(SCHEDULER_PORT)]  # noqa: S104  in the pod's own network
    if ground.dashboard:
        serve += ["--dashboard-address", f":{DASHBOARD_PORT}", "--dashboard-prefix", ground.dashboard(spec.name)]
    else:
        serve.append("--no-dashboard")
    scales = scaling(
        spec,
        lambda group: f"{worker_group(spec.name, group)}-worker-",
        at=f"0.0.0.0:{LEVELS_PORT}",
        idle_s=ground.scale_idle_s,
    )
    command = ["python", "-m", "distributed.cli.dask_scheduler", *scales, *serve]
    share = _SCHEDULER_SHARE
    if not spec.has_workers:
        command, share = ["python", "-S", "-c", _STAY], _NOTHING_SHARE
    container = _container(
        "scheduler",
        _image(spec.image, ground),
        command,
        env={**QUIET_DIALS, **ground.driver_env, **SHORT_LOGS, **spec.env, **_dask_env()},
        resources=_resources(size if spec.has_workers else Size(), share),
        ground=ground,
    )
    container["ports"] = [
        {"name": "tcp-comm", "containerPort": SCHEDULER_PORT, "protocol": "TCP"},
        {"name": "http-dashboard", "containerPort": DASHBOARD_PORT, "protocol": "TCP"},
        {"name": "levels", "containerPort": LEVELS_PORT, "protocol": "TCP"},
    ]
    if not spec.has_workers:
        return _pod(container, Size(), ground)
    return _of_dask(_pod(container, size, ground), spec, ground)


def worker(spec: ClusterSpec, group: WorkerGroup | None, ground: Ground) -> Json:
    """The PodSpec of a worker of this group; None is the default group. One process in each pod."""
    of = f"worker_groups {group.name!r} size" if group else "worker_size"
    size = ground.sizes.size(group.size if group else spec.worker_size, of=of)
    if group.spot if group else spec.worker_spot:
        size = _both(size, ground.sizes.spot(of=f"worker group {group.name!r}" if group else "worker_spot"))
    if group:
        size = _both(size, _said(group))
    if spec.worker_memory:
        size = size.model_copy(update={"memory": spec.worker_memory})
    container = _container(
        "worker",
        _image((group.image if group else None) or spec.image, ground),
        _worker_command(spec, group, bytes_of(size.memory or _WORKER_SHARE.memory_limit)),
        env={**_AS_A_NANNY, **ground.driver_env, **SHORT_LOGS, **spec.env, **_dask_env()},
        resources=_resources(size, _WORKER_SHARE),
        ground=ground,
    )
    return _of_dask(_pod(container, size, ground), spec, ground)


def _of_dask(pod: Json, spec: ClusterSpec, ground: Ground) -> Json:
    return extras.after_start_script(extras.added(pod, spec, ground), spec)


def _driver_command(spec: ClusterSpec, ground: Ground) -> list[str]:
    settings, name = ground.settings, spec.name
    options = {
        "--cluster": name,
        "--folder": f"{FOLDER}/{name}",
        "--spec": f"{SPEC_FOLDER}/{SPEC_KEY}",
        "--secret": f"{SECRET_FOLDER}/{SECRET_KEY}",
        "--daemon": settings.daemon_address,
        "--relay": ground.at(spec.relay),
        "--storage": f"{FOLDER}/{name}/results",
    }
    if settings.ca_config_map:
        options["--ca"] = f"{CA_FOLDER}/{CA_KEY}"
    if spec.has_workers:
        host = f"{scheduler(name)}.{ground.namespace}.svc"
        options |= {"--scheduler": f"tcp://{host}:{SCHEDULER_PORT}", "--levels": f"tcp://{host}:{LEVELS_PORT}"}
    said = [word for option in options.items() for word in option]
    return ["python", "-m", "flowgroup.rooms", "driver", *said]


def _worker_command(spec: ClusterSpec, group: WorkerGroup | None, memory_bytes: int) -> list[str]:
    """Named as the operator names it, or else it cannot tell which pod a retired worker was."""
    return [
        *("python", "-m", "distributed.cli.dask_worker"),
        *("--name", "$(DASK_WORKER_NAME)"),
        *("--nworkers", "1"),
        *("--nthreads", str(spec.worker_threads)),
        *("--memory-limit", str(memory_bytes)),
        *("--local-directory", f"{FOLDER}/scratch"),
        *("--death-timeout", "60"),
        *WORKER_PRELOAD,
        *dask_resources(group),
        "--no-nanny",
        "--no-dashboard",
    ]


def _dask_env() -> dict[str, str]:
    return {
        "DASK_TEMPORARY_DIRECTORY": f"{FOLDER}/scratch",
        "PREFECT_HOME": f"{FOLDER}/prefect",
        **QUIET,
    }


def _pod(container: Json, size: Size, ground: Ground, volumes: Sequence[Json] = ()) -> Json:
    settings = ground.settings
    empty = {"sizeLimit": str(bytes_of(size.ephemeral_storage))} if size.ephemeral_storage else {}
    pod: Json = {
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "work", "emptyDir": empty}, {"name": "tmp", "emptyDir": {}}, *volumes],
    }
    placed: Json = {
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": size.node_selector,
        "tolerations": list(size.tolerations),
        "affinity": size.affinity,
        "priorityClassName": size.priority_class,
    }
    return pod | {name: value for name, value in placed.items() if value}


def _container(
    name: str,
    image: str,
    command: list[str],
    *,
    env: Mapping[str, str],
    resources: Json,
    ground: Ground,
) -> Json:
    whole = {**_SOMEBODY, **env}
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": ground.settings.image_pull_policy,
        "command": command,
        "workingDir": FOLDER,
        # kubelet would put another variable's value where a value says $(NAME)
        "env": [{"name": key, "value": value.replace("$(", "$$(")} for key, value in sorted(whole.items())],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "work", "mountPath": FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _mount(volume: str, path: str) -> Json:
    return {"name": volume, "mountPath": path, "readOnly": True}


def images_of(spec: ClusterSpec, ground: Ground) -> list[str]:
    """Those of a cluster's pods, the driver's first. Raises Refused where none is known."""
    return [_image(said or spec.image, ground) for said in (None, *(group.image for group in spec.worker_groups))]


def _image(said: str | None, ground: Ground) -> str:
    image = said or ground.settings.image
    if not image:
        raise Refused(
            "no image is known for this deployment's runs: deploy it with image=…, or set FLOWGROUP_KUBERNETES_IMAGE to "
            "one with flowgroup[runtime] in it"
        )
    return image


def _resources(size: Size, share: _Share) -> Json:
    """A size is request and limit alike. Without one there is no limit of CPU: starting takes more than waiting."""
    requests = {"cpu": size.cpu or share.cpu, "memory": str(bytes_of(size.memory or share.memory))}
    limits = {"memory": str(bytes_of(size.memory or share.memory_limit))}
    if size.cpu:
        limits["cpu"] = size.cpu
    if size.ephemeral_storage:
        requests["ephemeral-storage"] = limits["ephemeral-storage"] = str(bytes_of(size.ephemeral_storage))
    return {"requests": requests, "limits": {**limits, **size.extended}}


def _said(group: WorkerGroup) -> Size:
    return Size(
        resources=group.resources,
        node_selector=group.node_selector,
        tolerations=group.tolerations,
        affinity=group.affinity,
        priority_class=group.priority_class,
    )


def _both(size: Size, more: Size) -> Size:
    """What both say together; where both say the same thing, `more`."""
    return size.model_copy(
        update={
            "resources": {**size.resources, **more.resources},
            "node_selector": {**size.node_selector, **more.node_selector},
            "tolerations": (*size.tolerations, *more.tolerations),
            "affinity": more.affinity or size.affinity,
            "priority_class": more.priority_class or size.priority_class,
        }
    )
