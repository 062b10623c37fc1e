"""
Every setting, read once. Nobody else reads the environment.

Sources, strongest first: flags of the command line, environment variables, the file that `FLOWGROUP_CONFIG` names
(TOML, one table per section: `[prefect]`, `[daemon]`, `[relay]`, `[driver]`, `[kubernetes]`), defaults.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from flowgroup.errors import Refused
from flowgroup.model.spec import is_process_wide
from flowgroup.sections import DaemonSettings as DaemonSettings
from flowgroup.sections import DriverSettings as DriverSettings
from flowgroup.sections import KubernetesSettings as KubernetesSettings
from flowgroup.sections import PrefectSettings as PrefectSettings
from flowgroup.sections import RelaySettings as RelaySettings
from flowgroup.sections import Section

S = TypeVar("S", bound=Section)
_CLOUD = re.compile(r"^https://api\.prefect\.cloud/api/accounts/([^/]+)/workspaces/([^/]+)$")


def ui_of(prefect: PrefectSettings) -> str | None:
    """Where a person sees the runs, as far as that can be told from the API's address."""
    if prefect.ui_url or not prefect.api_url:
        return prefect.ui_url
    if cloud := _CLOUD.match(prefect.api_url):
        return f"https://app.prefect.cloud/account/{cloud[1]}/workspace/{cloud[2]}"
    return prefect.api_url.removesuffix("/api") if prefect.api_url.endswith("/api") else None


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
_LOOPBACK = "127.0.0.1"
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


def certificates() -> tuple[str | None, str | None]:
    """The file and the folder of authorities that this process trusts, where the environment names them."""
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


def author(name: str) -> str | None:
    """`FLOWGROUP_STORE` or `FLOWGROUP_SIGNING_KEY`, which authors' environments have (`client/author.py`)."""
    return os.environ.get(f"FLOWGROUP_{name}")


_SECRET_CHARS = 8
_SECRET = re.compile(
    r"secret|token|passw|passphrase|credential|private|api_?key|access_?key|auth_string|_dsn$", re.IGNORECASE
)


def secrets_of_environment(names: frozenset[str]) -> tuple[str, ...]:
    """
    The values of these variables of this process, and of those whose names say that they are secrets: of the latter not what
    is a path, or too short to be one.
    """

    def is_guessed(name: str, value: str) -> bool:
        return bool(_SECRET.search(name)) and len(value) >= _SECRET_CHARS and not value.startswith(("/", "~", "."))

    return tuple(value for name, value in os.environ.items() if name in names or is_guessed(name, value))


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


def spare_loopback() -> None:
    """
    Where a deployment's environment names a proxy, this host is reached without it: Prefect's API is on loopback here.
    """
    if not {"http_proxy", "all_proxy"} & {name.lower() for name in os.environ}:
        return
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if not {_LOOPBACK, "*"} & {host.strip() for host in spared.split(",")}:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, (spared, _LOOPBACK)))


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
    except (OSError, ValueError) as exc:
        raise Refused(f"cannot read the settings file {path} (FLOWGROUP_CONFIG): {exc}") from exc
    if plain := sorted(name for name, table in tables.items() if not isinstance(table, dict)):
        raise Refused(
            f"{path}: {plain[0]} stands in no table; there are [prefect], [daemon], [relay], [driver] and [kubernetes]"
        )
    unknown = set(tables) - {"prefect", "daemon", "relay", "driver", "kubernetes"}
    if unknown:
        raise Refused(
            f"{path}: unknown table [{sorted(unknown)[0]}]; there are [prefect], [daemon], [relay], [driver] and "
            "[kubernetes]"
        )
    return tables


def _unless_in_environment(section: type[Section], table: dict[str, Any]) -> dict[str, Any]:
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


def _told(section: type[Section], name: str, where: tuple[int | str, ...], message: str) -> str:
    dotted = ".".join(str(part) for part in where)
    return f"{section.model_config['env_prefix']}{dotted.upper()} (or {name}.{dotted}): {message}"
