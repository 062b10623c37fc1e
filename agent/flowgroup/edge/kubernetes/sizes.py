"""
The catalogue of named sizes: what `worker_size="gpu-large"` means on this cluster.

A JSON or TOML file, name to size; names of fields may be written as Kubernetes writes them:

    {"gpu-large": {"cpu": "8", "memory": "64Gi", "gpu": 1, "nodeSelector": {"pool": "gpu-large"}}}

The entry `spot` is no size: its node selector and tolerations are added to pods that may be on spot nodes.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from flowgroup.errors import Refused
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import DEFAULT_GROUP

SPOT = "spot"
_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*$")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_GPU = re.compile(r"/(gpu|mig-)")
_CPU = r"^(\d+(\.\d+)?|\d+m)$"
_BYTES = r"^\d+(\.\d+)?\s*([kKMGT]i?B?)?$"


class Size(BaseModel):
    """What a container of this size asks for, and is limited to. What is not said is left to the defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, coerce_numbers_to_str=True
    )

    cpu: str | None = Field(default=None, pattern=_CPU)
    memory: str | None = Field(default=None, pattern=_BYTES)
    ephemeral_storage: str | None = Field(default=None, pattern=_BYTES)
    gpu: int = Field(default=0, ge=0, description="of `nvidia.com/gpu`; others stand in `resources`")
    resources: dict[str, str | int] = Field(default_factory=dict)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = Field(default_factory=dict)
    priority_class: str | None = None

    @property
    def extended(self) -> dict[str, str]:
        """What it takes of a node beside the usual, by resource name."""
        gpu = {"nvidia.com/gpu": str(self.gpu)} if self.gpu else {}
        return {**gpu, **{name: str(amount) for name, amount in self.resources.items()}}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The catalogue as it was when the daemon started."""

    known: Mapping[str, Size] = field(default_factory=lambda: MappingProxyType({}))
    file: str = ""

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """Raises Refused, naming the size and the field that are wrong."""
        if path is None:
            return cls()
        try:
            text = path.read_text()
            said = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except (OSError, ValueError) as exc:
            raise Refused(f"cannot read the sizes in {path} (FLOWGROUP_KUBERNETES_SIZES): {exc}") from exc
        try:
            return cls(MappingProxyType(_CATALOGUE.validate_python(said, by_alias=True, by_name=True)), str(path))
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refused(f"{path} (FLOWGROUP_KUBERNETES_SIZES): {where}: {first['msg']}") from exc

    def size(self, name: str | None, *, of: str) -> Size:
        """The size of that name; one that says nothing for None. Raises Refused, naming those that exist."""
        if name is None:
            return Size()
        if name not in self.known or name == SPOT:
            there = ", ".join(sorted(set(self.known) - {SPOT})) or "none"
            raise Refused(
                f"{of} is {name!r}, which is no size of this cluster's catalogue; there are: {there}. "
                "Deploy again with one of them, or ask for it to be added (FLOWGROUP_KUBERNETES_SIZES)."
            )
        return self.known[name]

    def gpus(self, spec: ClusterSpec) -> dict[str, int]:
        """How many GPUs, or parts of one, each worker of a group holds, by the group's name."""
        found = {one.name: _gpus({**self._named(one.size).extended, **one.resources}) for one in spec.worker_groups}
        return {DEFAULT_GROUP: _gpus(self._named(spec.worker_size).extended), **found}

    def _named(self, name: str | None) -> Size:
        return self.known.get(name or "", Size())

    def spot(self, *, of: str) -> Size:
        """Where spot nodes are. Raises Refused when the catalogue does not say."""
        if SPOT not in self.known:
            raise Refused(
                f"{of} asks for spot nodes, and this cluster's catalogue does not say which those are: leave it out, or ask "
                f"for an entry {SPOT!r} with a nodeSelector and tolerations (FLOWGROUP_KUBERNETES_SIZES)."
            )
        return self.known[SPOT]


def is_gpu(resource: str) -> bool:
    """Whether it is `nvidia.com/gpu`, `amd.com/gpu`, `nvidia.com/mig-1g.5gb` or the like: GPUs, or parts of one."""
    return _GPU.search(resource) is not None


def _gpus(held: Mapping[str, str | int]) -> int:
    amounts = [str(amount) for name, amount in held.items() if is_gpu(name)]
    return sum(int(amount) for amount in amounts if amount.isdigit())


_CATALOGUE = TypeAdapter(dict[str, Size])


def bytes_of(quantity: str) -> int:
    """`2GiB` as Dask writes it, `2Gi` as Kubernetes does, `2G` as both do. Raises ValueError."""
    read = _QUANTITY.match(quantity)
    if not read:
        raise ValueError(f"{quantity!r} is no amount of memory, such as 2Gi")
    base = 1024 if read[3] else 1000
    return int(float(read[1]) * base ** _POWERS[read[2]])
