"""
Every setting and every job variable, from the classes that check them: `python -m flowgroup.dev.reference
[--write docs/settings.md]`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import NoDecode

from flowgroup import sections
from flowgroup.dev.made import give, plain
from flowgroup.model.variables import JobVariables, WorkerGroup

_HEAD = """\
# Settings

Made from `agent/flowgroup/sections.py` and `agent/flowgroup/model/variables.py` by `make docs`.

Strongest first: flags of `flowgroup start`, environment variables, the TOML file that `FLOWGROUP_CONFIG` names, defaults.
In the file each section below is a table, `[daemon]` for example, with the names in lower case and without the prefix. The
chart's `config` has these tables too, but for `[prefect]`. A wrong value is refused at the start, and so is an unknown name
in the file.

Authors' environments have three more: `FLOWGROUP_STORE` (where bundles go, `file://~/.flowgroup/store` if it is not said),
`FLOWGROUP_SIGNING_KEY` (a file) and Docker's own `DOCKER_CONFIG`.

"""
_JOB = """\
## Job variables

What a deployment may say of its flow's cluster: `deploy(job_variables={…})`, `job_variables` in `prefect.yaml`, or the pool's
form in Prefect's UI. `flowgroup.Cluster` has those of workers, sizes and mode under the same names.

"""
_GROUP = """\
One of `worker_groups`. `image` is the workers' own; node selector, tolerations, affinity and priority class are written as
Kubernetes writes them, and are added to what the size says.

"""
_SECTIONS: dict[str, type[sections.Section]] = {
    "prefect": sections.PrefectSettings,
    "daemon": sections.DaemonSettings,
    "relay": sections.RelaySettings,
    "driver": sections.DriverSettings,
    "kubernetes": sections.KubernetesSettings,
}
_CHOICES = re.compile(r"^\^\(([\w|-]+)\)\$$")
# What depends on who asks, or where.
_TOLD_DEFAULTS = {"FLOWGROUP_HOME": "`~/.flowgroup`", "FLOWGROUP_DRIVER_START_METHOD": "`fork` on Linux, else `spawn`"}
_TOLD_KINDS = {"FLOWGROUP_RELAY_REDACT": "patterns, one a line"}
_KINDS = {bool: "true or false", int: "whole number", float: "number", Path: "path", SecretStr: "secret", str: "text"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most"}


def page() -> str:
    """The whole file."""
    parts = [_HEAD]
    for name, section in _SECTIONS.items():
        prefix = section.model_config["env_prefix"]
        parts.append(f"## [{name}]\n\n{_table('variable', section, prefix)}\n")
    parts.append(f"{_JOB}{_table('job variable', JobVariables)}\n")
    parts.append(f"### A group of workers\n\n{_GROUP}{_table('field', WorkerGroup)}")
    return "".join(parts)


def variables() -> Iterator[str]:
    """The environment variable of every setting."""
    for section in _SECTIONS.values():
        yield from (f"{section.model_config['env_prefix']}{name.upper()}" for name in section.model_fields)


def _table(what: str, model: type[BaseModel], prefix: str = "") -> str:
    rows = [_row(f"{prefix}{name.upper()}" if prefix else name, field) for name, field in model.model_fields.items()]
    return "\n".join([f"| {what} | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    kind = _TOLD_KINDS.get(name) or _kind(field)
    cells = (
        f"`{name}`",
        kind,
        _TOLD_DEFAULTS.get(name) or _default(field),
        plain(field.description or field.title or ""),
    )
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _kind(field: FieldInfo) -> str:
    given = {name: getattr(one, name) for one in field.metadata for name in ("ge", "gt", "le") if hasattr(one, name)}
    patterns = [one.pattern for one in field.metadata if getattr(one, "pattern", None)]
    if patterns and (choices := _CHOICES.match(patterns[0])):
        return _either(choices[1].split("|"))
    commas = any(one is NoDecode or isinstance(one, NoDecode) for one in field.metadata)
    kind = "list, commas between" if commas else _kind_of(field.annotation)
    return ", ".join([kind, *(f"{_BOUNDS[name]} {given[name]:g}" for name in _BOUNDS if name in given)])


def _kind_of(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not NoneType)
        return _kind_of(annotation)
    if origin is Literal:
        return _either(get_args(annotation))
    if origin is not None:
        return {tuple: "JSON list", dict: "JSON object"}[origin]
    return _KINDS.get(annotation, "JSON object")


def _either(choices: Any) -> str:
    *most, last = (f"`{choice}`" for choice in choices)
    return f"{', '.join(most)} or {last}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be said"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value in ((), {}, ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


if __name__ == "__main__":
    give(page())
