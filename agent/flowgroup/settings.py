"""
Every setting, read once. Nobody else reads the environment.

Sources, strongest first: flags of the command line, environment variables, the file that `FLOWGROUP_CONFIG` names
(TOML, one table per section: `[prefect]`, `[daemon]`, `[relay]`, `[driver]`, `[kubernetes]`), defaults.
"""

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from flowgroup.errors import Refused
from flowgroup.model.spec import is_process_wide


class _Section(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="FLOWGROUP_", env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings)


S = TypeVar("S", bound=_Section)


class PrefectSettings(_Section):
    """Where Prefect's API is and how to speak to it; the names are Prefect's own."""

    model_config = SettingsConfigDict(env_prefix="PREFECT_")

    api_url: str | None = None
    ui_url: str | None = Field(
        default=None, description="where runs' logs point to; made from the API's address if empty"
    )
    api_key: SecretStr | None = None
    api_auth_string: SecretStr | None = None
    client_custom_headers: dict[str, str] = Field(default_factory=dict, repr=False)
    api_request_timeout: float = Field(default=30.0, gt=0)
    api_tls_insecure_skip_verify: bool = False
    api_ssl_cert_file: Path | None = None

    @field_validator("api_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not an http:// or https:// address (it usually ends in /api)")
        return url.rstrip("/") if url else url


_CLOUD = re.compile(r"^https://api\.prefect\.cloud/api/accounts/([^/]+)/workspaces/([^/]+)$")


def ui_of(prefect: PrefectSettings) -> str | None:
    """Where a person sees the runs, as far as that can be told from the API's address."""
    if prefect.ui_url or not prefect.api_url:
        return prefect.ui_url
    if cloud := _CLOUD.match(prefect.api_url):
        return f"https://app.prefect.cloud/account/{cloud[1]}/workspace/{cloud[2]}"
    return prefect.api_url.removesuffix("/api") if prefect.api_url.endswith("/api") else None


class DaemonSettings(_Section):
    """The daemon's own. Times are in seconds."""

    home: Path = Field(default_factory=lambda: Path.home() / ".flowgroup")
    pool: str | None = None
    queues: tuple[str, ...] = ()
    name: str = Field(default="", description="the worker's name in Prefect's UI; made from pool and host if empty")
    backend: str = Field(
        default="local",
        pattern="^(local|kubernetes)$",
        description="what makes clusters: processes of this machine, or Kubernetes",
    )
    slots: int = Field(default=100, ge=1, description="how many runs may be under way at once")
    poll_interval_s: float = Field(default=2.0, gt=0, description="how often to ask for due runs")
    poll_ahead_s: float = Field(default=10.0, ge=0, description="how far ahead runs are seen")
    claim_ahead_s: float = Field(default=2.0, ge=0, description="how long before its time a run may be claimed")
    prewarm_s: float = Field(
        default=60.0, ge=0, description="how long before a run's time its cluster may be made; 0: never ahead"
    )
    prewarm_clusters: int = Field(default=10, ge=1, description="how many clusters may be made ahead at once")
    heartbeat_interval_s: float = Field(default=30.0, gt=0)
    events: bool = Field(default=True, description="listen to Prefect's event stream to start runs at once")
    cluster_timeout_s: float = Field(default=300.0, gt=0, description="how long a cluster may take to be ready")
    idle_timeout_s: float = Field(default=300.0, ge=0, description="how long a cluster without runs is kept")
    cancel_grace_s: float = Field(default=8.0, ge=0, description="from asking a run to end to killing it")
    driver_lost_s: float = Field(default=5.0, ge=0, description="how long a driver whose process lives may be silent")
    public_keys: Path | None = Field(default=None, description="a file or folder of Ed25519 public keys (.pub)")
    health_host: str = "127.0.0.1"
    health_port: int = Field(
        default=0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0: a free one"
    )
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")


class RelaySettings(_Section):
    model_config = SettingsConfigDict(env_prefix="FLOWGROUP_RELAY_")

    attempt_ttl_s: float = Field(
        default=300.0, gt=0, description="how long an attempt stays open when nobody extends it"
    )
    max_body_bytes: int = Field(default=5 * 1024 * 1024, gt=0)
    hold_s: float = Field(
        default=8.0,
        gt=0,
        description="the longest that a call is held while the API is away; drivers wait 2 s longer for the relay",
    )
    tls_cert: Path | None = Field(default=None, description="of a relay on TCP: its certificate and chain, a PEM file")
    tls_key: Path | None = Field(default=None, description="of a relay on TCP: its certificate's key, a PEM file")
    control_key_file: Path | None = Field(
        default=None, description="what the daemon shows to a relay on another host; the local backend makes its own"
    )


class DriverSettings(_Section):
    model_config = SettingsConfigDict(env_prefix="FLOWGROUP_DRIVER_")

    status_interval_s: float = Field(default=2.0, gt=0)
    output_limit_bytes: int = Field(default=10 * 1024 * 1024, gt=0, description="of a run's own output, kept on disk")
    start_method: str = Field(
        default="fork" if sys.platform == "linux" else "spawn",
        pattern="^(fork|spawn)$",
        description="how a run's process is made: fork (milliseconds) or spawn (seconds; the only one on macOS)",
    )
    lean: bool = Field(
        default=True,
        description="change Prefect's engine where that saves needless waits and calls; everything works without it, "
        "only slower",
    )
    templates: bool = Field(
        default=True, description="import what a flow's runs import once, and fork later runs from there (fork only)"
    )
    scale_idle_s: float = Field(
        default=30.0, gt=0, description="how long a worker above its group's minimum is kept without work"
    )
    keep_env: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="which of the daemon's AWS_, GOOGLE_ and AZURE_ variables clusters get all the same: names, "
        "separated by commas, in which * stands for anything",
    )

    profile: Path | None = Field(
        default=None, description="a folder in which each run leaves where its time went (make profile); it costs time"
    )

    @field_validator("keep_env", mode="before")
    @classmethod
    def _separated(cls, names: object) -> object:
        return _split(names)


class KubernetesSettings(_Section):
    """The backend `kubernetes`. Objects of clusters are in one namespace, which is best not the daemon's own."""

    model_config = SettingsConfigDict(env_prefix="FLOWGROUP_KUBERNETES_")

    namespace: str = Field(default="", description="where clusters are made; the credentials' own if empty")
    image: str | None = Field(default=None, description="the image of runs whose deployment names none")
    image_pull_policy: str = Field(default="IfNotPresent", pattern="^(Always|IfNotPresent|Never)$")
    image_pull_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="names of Secrets in that namespace, separated by commas"
    )
    daemon_address: str = Field(default="", description="tls://host:port, as drivers reach the daemon")
    relay_address: str = Field(default="", description="https://host:port, as drivers and the daemon reach the relay")
    ca_config_map: str | None = Field(
        default=None, description="a ConfigMap of that namespace whose ca.crt vouches for daemon and relay"
    )
    ca_file: Path | None = Field(default=None, description="the same ca.crt, as the daemon itself has it")
    service_account: str = Field(default="default", description="of clusters' pods; it needs no rights, and no token")
    service_accounts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="others that deployments may choose, separated by commas; `NAME:token` mounts its token as well",
    )
    sizes: Path | None = Field(default=None, description="the catalogue of named sizes: a JSON or TOML file")
    listen_port: int = Field(default=8443, ge=0, le=65535, description="where the daemon listens for drivers")
    tls_cert: Path | None = Field(default=None, description="the daemon's certificate for that port (PEM, the chain)")
    tls_key: Path | None = Field(default=None, description="its key (PEM)")
    dashboard: bool = Field(default=False, description="Dask's dashboard on port 8787 of each cluster's scheduler")
    network_policy: bool = Field(default=True, description="a NetworkPolicy around each cluster")
    operator_namespace: str | None = Field(
        default=None, description="the Dask operator's namespace, if it shall reach schedulers"
    )
    egress: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="what all pods of clusters may reach beside their own cluster: CIDR or namespace/NAME, each with :PORT "
        "if it shall be one port only, separated by commas",
    )
    driver_egress: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="what drivers, and so runs, may reach beside that: where bundles and results lie"
    )
    operator_timeout_s: float = Field(
        default=30.0, gt=0, description="how long the Dask operator may be silent about a new or a deleted DaskCluster"
    )
    pull_timeout_s: float = Field(
        default=60.0, gt=0, description="how long an image may be refused or not found before its cluster is given up"
    )
    renew_every_s: float = Field(
        default=60.0, gt=0, description="how often it is noted on each DaskCluster that its daemon lives"
    )

    @field_validator("image_pull_secrets", "service_accounts", "egress", "driver_egress", mode="before")
    @classmethod
    def _separated(cls, names: object) -> object:
        return _split(names)


def _split(names: object) -> object:
    """`a, b` from the environment; a list from a file is one already."""
    return tuple(filter(None, (name.strip() for name in names.split(",")))) if isinstance(names, str) else names


@dataclass(frozen=True, slots=True)
class Settings:
    prefect: PrefectSettings
    daemon: DaemonSettings
    relay: RelaySettings
    driver: DriverSettings
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)

    @classmethod
    def read(cls, flags: Mapping[str, Any] | None = None) -> Self:
        """
        Read everything. `flags` are the daemon's, by name; None means not given.

        Raises Refused, naming the variable, flag or table that is wrong.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        tables = _tables(os.environ.get("FLOWGROUP_CONFIG"))
        daemon = {**_unless_in_environment(DaemonSettings, tables.get("daemon", {})), **given}
        return cls(
            prefect=_section(
                PrefectSettings, "prefect", _unless_in_environment(PrefectSettings, tables.get("prefect", {}))
            ),
            daemon=_section(DaemonSettings, "daemon", daemon),
            relay=_section(RelaySettings, "relay", _unless_in_environment(RelaySettings, tables.get("relay", {}))),
            driver=_section(DriverSettings, "driver", _unless_in_environment(DriverSettings, tables.get("driver", {}))),
            kubernetes=_section(
                KubernetesSettings,
                "kubernetes",
                _unless_in_environment(KubernetesSettings, tables.get("kubernetes", {})),
            ),
        )


# What a flow's processes must never inherit: the API's address and token, and our own settings.
_PRIVATE = ("PREFECT_", "FLOWGROUP_")
_PROFILE = "FLOWGROUP_DRIVER_PROFILE"
# The daemon and the relay sign addresses in the store with these; runs get such addresses instead.
_OF_THE_STORE = ("AWS_", "GOOGLE_", "AZURE_")


def environment_for_user_code() -> dict[str, str]:
    """This process's environment without anything of Prefect's or ours in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}


def environment_for_clusters(driver: DriverSettings) -> dict[str, str]:
    """
    What the processes of a cluster get from the daemon's environment: the same, without the store's credentials.

    A flow that reads a bucket by itself gets what it needs by its deployment's `env`; `FLOWGROUP_DRIVER_KEEP_ENV`, for
    example `AWS_REGION,AWS_CA_BUNDLE` or `AWS_*`, names what every cluster gets.
    """
    return {
        name: value
        for name, value in environment_for_user_code().items()
        if not name.startswith(_OF_THE_STORE) or any(fnmatchcase(name, kept) for kept in driver.keep_env)
    }


def environment_for_drivers(driver: DriverSettings) -> dict[str, str]:
    """What a driver's process gets: the same, and the driver's own settings."""
    own = driver.model_dump(mode="json", exclude={"keep_env"}, exclude_none=True)
    return {**environment_for_clusters(driver), **{f"FLOWGROUP_DRIVER_{name.upper()}": str(own[name]) for name in own}}


def environment_for_pods(driver: DriverSettings) -> dict[str, str]:
    """
    What processes of a cluster on another machine get: the driver's own settings and what `keep_env` names.

    The daemon's other variables are about its own machine.
    """
    whole = environment_for_drivers(driver)
    own = {name: value for name, value in whole.items() if name.startswith("FLOWGROUP_DRIVER_") and name != _PROFILE}
    return own | {
        name: value for name, value in whole.items() if any(fnmatchcase(name, kept) for kept in driver.keep_env)
    }


def kubeconfig() -> str | None:
    """The file, or files, that `KUBECONFIG` names."""
    return os.environ.get("KUBECONFIG")


def kubernetes_service() -> tuple[str, str] | None:
    """Inside a pod: host and port of its cluster's API."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return (host, port) if host else None


def environment_for_zygote(driver: DriverSettings) -> dict[str, str]:
    """What of the driver's own settings its runs' processes need."""
    return {_PROFILE: str(driver.profile)} if driver.profile else {}


def profile_folder() -> Path | None:
    """In a zygote: where its children leave their profiles, if anywhere."""
    folder = os.environ.get(_PROFILE)
    return Path(folder) if folder else None


_TOKENS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS")


def environment_for_relay() -> dict[str, str]:
    """Everything but the tokens: the relay reads them from its standard input, because environments can be read."""
    return environment_without_tokens()


def environment_without_tokens() -> dict[str, str]:
    """For a process of ours that needs this one's environment, and nothing of what opens Prefect's API."""
    return {name: value for name, value in os.environ.items() if name not in _TOKENS}


def dask_scheduler() -> str | None:
    """Inside a run: the address of its group's Dask scheduler, if the group has workers."""
    return os.environ.get("FLOWGROUP_DASK_SCHEDULER")


def needs_new_process(changes: Mapping[str, str]) -> bool:
    """Whether a change would have no effect on a process that runs already."""
    return any(is_process_wide(name) and os.environ.get(name) != value for name, value in changes.items())


def set_environment(changes: Mapping[str, str]) -> frozenset[str]:
    """
    Change this process's environment: only for a child that was forked for one run, before user code runs.

    Gives the names that are new or have another value now.
    """
    changed = frozenset(name for name, value in changes.items() if os.environ.get(name) != value)
    os.environ.update(changes)
    return changed


@contextmanager
def environment_meanwhile(changes: Mapping[str, str], defaults: Mapping[str, str]) -> Iterator[None]:
    """Change this process's environment for the block, `defaults` only where it has none: for a template, before it forks."""
    changes = {**{name: value for name, value in defaults.items() if name not in os.environ}, **changes}
    before = {name: os.environ.get(name) for name in changes}
    set_environment(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def threads_wanted(*names: str) -> int | None:
    """What the first of these variables that is set (`OMP_NUM_THREADS` and its like) says of a pool's size."""
    said = next((value for name in names if (value := os.environ.get(name))), "")
    first = said.partition(",")[0].strip()  # OpenMP takes a size for each level of nesting
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _tables(path: str | None) -> dict[str, dict[str, Any]]:
    if not path:
        return {}
    try:
        tables = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise Refused(f"cannot read the settings file {path} (FLOWGROUP_CONFIG): {exc}") from exc
    unknown = set(tables) - {"prefect", "daemon", "relay", "driver", "kubernetes"}
    if unknown:
        raise Refused(
            f"{path}: unknown table [{sorted(unknown)[0]}]; there are [prefect], [daemon], [relay], [driver] and "
            "[kubernetes]"
        )
    return tables


def _unless_in_environment(section: type[_Section], table: dict[str, Any]) -> dict[str, Any]:
    """pydantic-settings lets arguments win; a file must be weaker than the environment."""
    prefix = section.model_config["env_prefix"]
    present = {name.upper() for name in os.environ}
    return {name: value for name, value in table.items() if f"{prefix}{name}".upper() not in present}


def _section(section: type[S], name: str, values: Mapping[str, Any]) -> S:
    try:
        return section(**values)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        told = "; ".join(_told(section, name, error["loc"], error["msg"]) for error in errors)
        raise Refused(f"wrong settings: {told}") from exc
    except SettingsError as exc:  # JSON that cannot be read
        raise Refused(f"wrong settings in section {name}: {exc}") from exc


def _told(section: type[_Section], name: str, where: tuple[int | str, ...], message: str) -> str:
    dotted = ".".join(str(part) for part in where)
    return f"{section.model_config['env_prefix']}{dotted.upper()} (or {name}.{dotted}): {message}"
