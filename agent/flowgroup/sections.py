"""What can be set: a class for each room, with names, defaults and checks. `settings.py` reads it."""

import sys
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict


class Section(BaseSettings):
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


class PrefectSettings(Section):
    """Where Prefect's API is and how to speak to it; the names are Prefect's own."""

    model_config = SettingsConfigDict(env_prefix="PREFECT_")

    api_url: str | None = Field(default=None, description="Prefect's API; must be set")
    ui_url: str | None = Field(
        default=None, description="where runs' logs point to; made from the API's address if empty"
    )
    api_key: SecretStr | None = Field(default=None, description="how to get in: Prefect Cloud's key")
    api_auth_string: SecretStr | None = Field(default=None, description="the same for a server with basic auth")
    api_key_file: Path | None = Field(
        default=None,
        description="a file with the key, read again when it changes; ours alone, Prefect does not know it",
    )
    api_auth_string_file: Path | None = Field(default=None, description="the same for the auth string")
    client_custom_headers: dict[str, str] = Field(default_factory=dict, repr=False, description="sent with each call")
    api_request_timeout: float = Field(default=30.0, gt=0, description="seconds")
    api_tls_insecure_skip_verify: bool = Field(default=False, description="do not check the API's certificate")
    api_ssl_cert_file: Path | None = Field(default=None, description="authorities that vouch for it, a PEM file")

    @field_validator("api_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not an http:// or https:// address (it usually ends in /api)")
        return url.rstrip("/") if url else url


class DaemonSettings(Section):
    """The daemon's own. Times are in seconds."""

    home: Path = Field(default_factory=lambda: Path.home() / ".flowgroup", description="where state is kept")
    pool: str | None = Field(default=None, description="the work pool; must be set")
    queues: tuple[str, ...] = Field(default=(), description="only these work queues; all if it is not said")
    name: str = Field(default="", description="the worker's name in Prefect's UI; made from pool and host if empty")
    backend: str = Field(
        default="local",
        pattern="^(local|kubernetes)$",
        description="what makes clusters: processes of this machine, or Kubernetes",
    )
    stand_by: bool = Field(
        default=False,
        description="wait while another daemon serves the pool, and take its place when it ends: on one machine with the "
        "same home, on Kubernetes by a Lease and with the same `name`",
    )
    slots: int = Field(default=100, ge=1, description="how many runs may be under way at once")
    cap_clusters: int | None = Field(default=None, ge=1, description="how many clusters there may be")
    cap_pods: int | None = Field(default=None, ge=1, description="how many pods (local: processes) clusters may have")
    cap_cpu: float | None = Field(default=None, gt=0, description="how many CPUs they may ask for")
    cap_gpu: int | None = Field(default=None, ge=0, description="how many GPUs they may ask for")
    group_cap_runs: int | None = Field(default=None, ge=1, description="how many runs of one flow may be under way")
    group_cap_clusters: int | None = Field(default=None, ge=1, description="how many clusters one flow may have")
    group_cap_pods: int | None = Field(default=None, ge=1, description="how many pods they may have")
    group_cap_cpu: float | None = Field(default=None, gt=0, description="how many CPUs they may ask for")
    group_cap_gpu: int | None = Field(default=None, ge=0, description="how many GPUs they may ask for")
    poll_interval_s: float = Field(default=2.0, gt=0, description="how often to ask for due runs")
    poll_ahead_s: float = Field(default=10.0, ge=0, description="how far ahead runs are seen")
    claim_ahead_s: float = Field(default=2.0, ge=0, description="how long before its time a run may be claimed")
    prewarm_s: float = Field(
        default=60.0, ge=0, description="how long before a run's time its cluster may be made; 0: never ahead"
    )
    prewarm_clusters: int = Field(default=10, ge=1, description="how many clusters may be made ahead at once")
    heartbeat_interval_s: float = Field(default=30.0, gt=0, description="of the worker, to Prefect")
    events: bool = Field(default=True, description="listen to Prefect's event stream to start runs at once")
    cluster_timeout_s: float = Field(default=300.0, gt=0, description="how long a cluster may take to be ready")
    infrastructure_retries: int = Field(
        default=3,
        ge=0,
        le=100,
        description="how often a run is tried again when the infrastructure fails before its code begins",
    )
    idle_timeout_s: float = Field(default=300.0, ge=0, description="how long a cluster without runs is kept")
    cancel_grace_s: float = Field(default=8.0, ge=0, description="from asking a run to end to killing it")
    driver_lost_s: float = Field(default=5.0, ge=0, description="how long a driver whose process lives may be silent")
    public_keys: Path | None = Field(default=None, description="a file or folder of Ed25519 public keys (.pub)")
    health_host: str = Field(default="127.0.0.1", description="address of /livez, /readyz and /metrics")
    health_port: int = Field(
        default=0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0: a free one"
    )
    page_host: str = Field(default="127.0.0.1", description="where the page is served")
    page_port: int | None = Field(
        default=None, ge=0, le=65535, description="port of the page for people; 0: a free one; without it there is none"
    )
    page_url: str | None = Field(
        default=None, description="the page's address as people reach it, for links; that of its port if it is not said"
    )
    page_token_file: Path | None = Field(
        default=None, description="a file with what opens the page; one is made in the pool's folder if it is not said"
    )
    dashboards: bool = Field(
        default=False,
        description="Dask's dashboard of each cluster with workers, through the page; needs bokeh where schedulers run",
    )
    metrics_flow_groups: int = Field(
        default=50, ge=0, description="how many flow groups have series of their own in metrics: those that cost most"
    )
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="of flowgroup's own logs, not of runs'"
    )


class RelaySettings(Section):
    model_config = SettingsConfigDict(env_prefix="FLOWGROUP_RELAY_")

    attempt_ttl_s: float = Field(
        default=300.0, gt=0, description="how long an attempt stays open when nobody extends it"
    )
    max_body_bytes: int = Field(default=5 * 1024 * 1024, gt=0, description="of one call")
    hold_s: float = Field(
        default=8.0,
        gt=0,
        description="the longest that a call is held while the API is away; drivers wait 1.5 s longer for the relay",
    )
    metrics_host: str = Field(default="127.0.0.1", description="address of the relay's /metrics")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="port of the relay's /metrics, without TLS or key; 0: a free one"
    )
    tls_cert: Path | None = Field(default=None, description="of a relay on TCP: its certificate and chain, a PEM file")
    tls_key: Path | None = Field(default=None, description="of a relay on TCP: its certificate's key, a PEM file")
    profile: str = Field(
        default="standard",
        pattern="^(standard|strict)$",
        description="what runs may do: all that an ordinary flow does, or only what is their own and what the next three name",
    )
    variables: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="strict: names of variables, separated by commas, in which * stands for anything"
    )
    blocks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="strict: blocks as type/name, such as secret/db-*; the result storage is one, too"
    )
    deployments: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="strict: deployments that runs may start, as flow/name"
    )
    hidden_blocks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="blocks that no run sees, as type/name; those with keys to Prefect's API never are"
    )
    redact: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="what is masked in logs, states' messages and events beside known secrets: regular expressions, one a line",
    )
    redact_file: Path | None = Field(
        default=None, description="a file with more of them, one a line; # begins a comment"
    )
    calls_per_run: int = Field(
        default=64, ge=1, description="how many calls of one run are under way at once; others wait"
    )
    websockets_per_run: int = Field(default=16, ge=1, description="how many websockets of one run are open at once")
    control_key_file: Path | None = Field(
        default=None, description="what the daemon shows to a relay on another host; the local backend makes its own"
    )
    spool: Path | None = Field(
        default=None,
        description="the folder, on a local disk, where logs and events wait for Prefect's API: of one relay alone; "
        "beside the relay's socket, or `spool` below FLOWGROUP_HOME, if it is not said",
    )
    spool_limit_bytes: int = Field(
        default=512 * 1024 * 1024,
        gt=0,
        description="how much may wait there; beyond it lines are dropped, the lowest level first, and said to be",
    )
    spool_reserve_bytes: int = Field(
        default=32 * 1024 * 1024, ge=0, description="how much of that is for events, and so for states, alone"
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="budget for calls to the API by the relay, its own and those of runs, which wait when it is used up; "
        "without limit if it is not said, which is right for a server of one's own, while Prefect Cloud counts them",
    )
    records_per_minute: float | None = Field(
        default=None, gt=0, description="budget for log lines and events together, which Prefect Cloud counts each"
    )

    @model_validator(mode="after")
    def _reserve_is_a_part(self) -> Self:
        if self.spool_reserve_bytes >= self.spool_limit_bytes:
            raise ValueError("spool_reserve_bytes must be less than spool_limit_bytes")
        return self

    @field_validator("redact", mode="before")
    @classmethod
    def _by_line(cls, patterns: object) -> object:
        return tuple(filter(None, map(str.strip, patterns.splitlines()))) if isinstance(patterns, str) else patterns

    @field_validator("variables", "blocks", "deployments", "hidden_blocks", mode="before")
    @classmethod
    def _separated(cls, names: object) -> object:
        return split(names)


class DriverSettings(Section):
    model_config = SettingsConfigDict(env_prefix="FLOWGROUP_DRIVER_")

    status_interval_s: float = Field(default=2.0, gt=0, description="how often a driver tells the daemon its status")
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
        return split(names)


class KubernetesSettings(Section):
    """The backend `kubernetes`. Objects of clusters are in one namespace, which is best not the daemon's own."""

    model_config = SettingsConfigDict(env_prefix="FLOWGROUP_KUBERNETES_")

    namespace: str = Field(default="", description="where clusters are made; the credentials' own if empty")
    image: str | None = Field(default=None, description="the image of runs whose deployment names none")
    image_pull_policy: str = Field(
        default="IfNotPresent", pattern="^(Always|IfNotPresent|Never)$", description="how images are pulled"
    )
    image_pull_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="names of Secrets in that namespace, separated by commas"
    )
    daemon_address: str = Field(default="", description="tls://host:port, as drivers reach the daemon")
    relay_address: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="https://host:port, as drivers and the daemon reach the relay; of several relays, separated by commas, "
        "each flow group has one, and the first is that of clusters made while it was alone",
    )
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
    lease: str = Field(
        default="flowgroup",
        description="name of the Lease by which daemons stand by for each other, in the namespace of their own credentials",
    )
    listen_port: int = Field(default=8443, ge=0, le=65535, description="where the daemon listens for drivers")
    tls_cert: Path | None = Field(default=None, description="the daemon's certificate for that port (PEM, the chain)")
    tls_key: Path | None = Field(default=None, description="its key (PEM)")
    network_policy: bool = Field(default=True, description="a NetworkPolicy around each cluster")
    operator_namespace: str | None = Field(
        default=None, description="the Dask operator's namespace, if it shall reach schedulers"
    )
    egress: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="what all pods of clusters may reach beside their own cluster, the object store above all: CIDR or "
        "namespace/NAME, each with :PORT if it shall be one port only, separated by commas",
    )
    driver_egress: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="what drivers, and so flows outside of their Dask tasks, may reach beside that"
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

    @field_validator(
        "image_pull_secrets", "service_accounts", "egress", "driver_egress", "relay_address", mode="before"
    )
    @classmethod
    def _separated(cls, names: object) -> object:
        return split(names)


def split(names: object) -> object:
    """`a, b` from the environment; a list from a file is one already."""
    return tuple(filter(None, (name.strip() for name in names.split(",")))) if isinstance(names, str) else names
