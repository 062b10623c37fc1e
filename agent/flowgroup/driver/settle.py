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
from pydantic import BaseModel, SecretStr

from flowgroup.settings import set_environment

_QUICK = frozenset({"PREFECT_HOME", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_UI_URL"})


def settle(env: Mapping[str, str], changed: Set[str], *, quickly: bool) -> None:
    """Make the process's settings those of `env`, of which `changed` are the names that are new or have another value."""
    names = {name for name in changed if name.startswith("PREFECT_") and not name.startswith("PREFECT__")}
    if quickly and names <= _QUICK:
        _quick(env)
    elif names:
        prefect.context.refresh_global_settings_context()


def take_on(env: Mapping[str, str]) -> None:
    """The environment, and what Prefect reads of it."""
    settle(env, set_environment(env), quickly=False)


def _quick(env: Mapping[str, str]) -> None:
    context = get_settings_context()
    known = context.settings
    shown = {"key": SecretStr(env["PREFECT_API_KEY"]), "auth_string": SecretStr(env["PREFECT_API_AUTH_STRING"])}
    ours = {"ui_url": env.get("PREFECT_UI_URL", known.ui_url), "api": known.api.model_copy(update=shown)}
    settings = _moved(known, str(known.home), env["PREFECT_HOME"]).model_copy(update=ours)
    prefect.context.GLOBAL_SETTINGS_CONTEXT = SettingsContext.model_construct(
        profile=context.profile, settings=settings
    )


def _moved(model: Any, home: str, to: str) -> Any:
    """The same settings with every path below one home below another."""
    changes = {}
    for name, value in model.__dict__.items():
        moved = _value(value, home, to)
        if moved is not value:
            changes[name] = moved
    return model.model_copy(update=changes) if changes else model


def _value(value: Any, home: str, to: str) -> Any:
    if isinstance(value, BaseModel):
        return _moved(value, home, to)
    if isinstance(value, Path) and value.is_relative_to(home):
        return Path(to) / value.relative_to(home)
    if isinstance(value, SecretStr) and home in value.get_secret_value():  # the address of a database file
        return SecretStr(value.get_secret_value().replace(home, to))
    return value
