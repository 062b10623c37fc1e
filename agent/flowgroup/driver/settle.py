"""
A run's Prefect settings: what Prefect would read from the environment, without reading all of it again.

A whole `Settings` takes 30 ms to make. The zygote has one with what all runs share; a run differs from it in where its
home is and what it shows to the API.
"""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import prefect.context
from prefect.context import SettingsContext, get_settings_context
from pydantic import SecretStr

_QUICK = frozenset({"PREFECT_HOME", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"})


def settle(env: Mapping[str, str], changed: Set[str], *, quickly: bool) -> None:
    """Make the process's settings those of `env`, of which `changed` are the names that are new or have another value."""
    names = {name for name in changed if name.startswith("PREFECT_") and not name.startswith("PREFECT__")}
    if quickly and names <= _QUICK:
        _quick(env)
    else:
        prefect.context.refresh_global_settings_context()


def _quick(env: Mapping[str, str]) -> None:
    context = get_settings_context()
    known = context.settings
    home = Path(env["PREFECT_HOME"])

    def moved(path: Any) -> Any:
        path = Path(path)
        return home / path.relative_to(known.home) if path.is_relative_to(known.home) else path

    shown = {"key": SecretStr(env["PREFECT_API_KEY"]), "auth_string": SecretStr(env["PREFECT_API_AUTH_STRING"])}
    settings = known.model_copy(
        update={
            "home": home,
            "profiles_path": moved(known.profiles_path),
            "api": known.api.model_copy(update=shown),
            "logging": known.logging.model_copy(update={"config_path": moved(known.logging.config_path)}),
            "server": known.server.model_copy(update={"memo_store_path": moved(known.server.memo_store_path)}),
        }
    )
    prefect.context.GLOBAL_SETTINGS_CONTEXT = SettingsContext.model_construct(
        profile=context.profile, settings=settings
    )
