"""
What a deployment adds to its cluster's pods, as parts of a PodSpec. Pure.

Its volumes are named apart from ours, and its variables are weaker than those of the spec and than our own.
"""

from collections.abc import Mapping
from typing import Any

from flowgroup.edge.kubernetes.names import Ground
from flowgroup.errors import Refused
from flowgroup.model.pod import PodExtras
from flowgroup.model.spec import ClusterSpec

Json = dict[str, Any]
START_KEY = "start.sh"
START_FOLDER = "/etc/flowgroup/start"
START_FAILED = 79
"""The exit status of a scheduler or a worker whose start script failed."""
_SECRET_MODE = 0o440
_START = (
    f"bash -e {START_FOLDER}/{START_KEY} || {{ code=$?; "
    f'echo "flowgroup: the start script ended with status $code" >&2; exit {START_FAILED}; }}; exec "$@"'
)
_ENV_KEY = "env."
_MOUNTED = ":token"


def added(pod: Json, spec: ClusterSpec, ground: Ground) -> Json:
    """
    The PodSpec of a process of the cluster with what the deployment adds. Raises Refused for what this cluster does not allow.
    """
    (container,) = pod["containers"]
    if spec.secret_env:
        env = [entry for entry in container["env"] if entry["name"] not in spec.secret_env]
        container = {**container, "env": [*env, *_secret_env(spec)]}
        pod = {**pod, "containers": [container]}
    if spec.pod is None:
        return pod
    container = {**container, **_environment(container["env"], spec.pod)}
    container["volumeMounts"] = [*container["volumeMounts"], *map(_mount, _told(spec.pod, "volumeMounts"))]
    volumes = [*pod["volumes"], *map(_volume, _told(spec.pod, "volumes"))]
    _may_be_named(spec.pod, ground)
    return {**pod, **_account(spec.pod, ground), "containers": [container], "volumes": volumes}


def after_start_script(pod: Json, spec: ClusterSpec) -> Json:
    """
    The PodSpec whose container runs the start script first: what it installs for the driver, schedulers and workers need too.
    """
    if not spec.start_script:
        return pod
    (container,) = pod["containers"]
    script = {"name": "start", "configMap": {"name": spec.name, "items": [{"key": START_KEY, "path": START_KEY}]}}
    mount = {"name": "start", "mountPath": START_FOLDER, "readOnly": True}
    container = {
        **container,
        "command": ["bash", "-c", _START, "start", *container["command"]],
        "volumeMounts": [*container["volumeMounts"], mount],
    }
    return {**pod, "containers": [container], "volumes": [*pod["volumes"], script]}


def secret_data(spec: ClusterSpec) -> dict[str, str]:
    """What the cluster's own Secret has for its pods' variables, by key."""
    return {f"{_ENV_KEY}{name}": value for name, value in spec.secrets.items()}


def _secret_env(spec: ClusterSpec) -> list[Json]:
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": spec.name, "key": f"{_ENV_KEY}{name}"}}}
        for name in sorted(spec.secret_env)
    ]


def _environment(env: list[Json], extras: PodExtras) -> Json:
    """Kubernetes lets `env` win over `envFrom`; what already stands in `env` stays."""
    told = extras.told()
    there = {entry["name"] for entry in env}
    keys = told.get("env_value_from", {})
    single = [{"name": name, "valueFrom": value} for name, value in sorted(keys.items()) if name not in there]
    whole = told.get("env_from", [])
    return {"env": [*env, *single], **({"envFrom": whole} if whole else {})}


def _told(extras: PodExtras, name: str) -> list[Json]:
    return list(extras.told().get({"volumeMounts": "volume_mounts"}.get(name, name), ()))


def _mount(mount: Json) -> Json:
    return {**mount, "name": f"x-{mount['name']}"}


def _volume(volume: Json) -> Json:
    """A Secret's files are for the pods' group, as is our own."""
    named = {**volume, "name": f"x-{volume['name']}"}
    if "secret" in named:
        named["secret"] = {"defaultMode": _SECRET_MODE, **named["secret"]}
    return named


def _may_be_named(extras: PodExtras, ground: Ground) -> None:
    """The registry's credentials are kubelet's, not the runs'."""
    for kind, name in extras.objects():
        if kind == "Secret" and name in ground.settings.image_pull_secrets:
            raise Refused(f"the Secret {name!r} is for pulling images, and no run may have it: name another one")


def _account(extras: PodExtras, ground: Ground) -> Json:
    if extras.service_account is None:
        return {}
    allowed = accounts(ground.settings.service_accounts)
    if extras.service_account not in allowed:
        there = ", ".join(sorted(allowed)) or "none"
        raise Refused(
            f"service_account is {extras.service_account!r}, which deployments may not use here; allowed are: {there}. Choose "
            "one of them, or ask for it to be added (FLOWGROUP_KUBERNETES_SERVICE_ACCOUNTS)."
        )
    return {
        "serviceAccountName": extras.service_account,
        "automountServiceAccountToken": allowed[extras.service_account],
    }


def accounts(said: tuple[str, ...]) -> Mapping[str, bool]:
    """
    Which service accounts deployments may use, and whether their token is mounted.

    Without `:token` it is not: clouds give pods their rights without it (EKS, GKE and AKS project tokens of their own), and the
    token of Kubernetes' own API would be in the hands of user code.
    """
    return {name.removesuffix(_MOUNTED): name.endswith(_MOUNTED) for name in said}
