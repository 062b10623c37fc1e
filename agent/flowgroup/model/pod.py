"""
What a deployment adds to the pods of its cluster: variables, volumes and a service account, by reference.

It is written as Kubernetes writes it. Only what a namespace with Pod Security `restricted` takes can be said at all.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_OBJECT = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_KEY = r"^[-._a-zA-Z0-9]{1,253}$"
_LABEL = r"^[a-z0-9]([-a-z0-9]{0,58}[a-z0-9])?$"
_QUANTITY = r"^\d+(\.\d+)?[kMGT]?i?$"
# Where the cluster's own files are; nothing of an author's is mounted there or above.
_OURS = ("/var/lib/flowgroup", "/etc/flowgroup", "/opt/flowgroup", "/proc", "/sys", "/dev")
_NOT_ITSELF = ("/", "/tmp", "/etc", "/var", "/usr", "/opt", "/bin", "/lib")  # noqa: S108
# A cluster's own Secret and ConfigMap are called as the cluster: `<flow>-<12 hex digits>`.
_A_CLUSTERS = re.compile(r"-[0-9a-f]{12}(-[a-z]+)?$")

ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_RESERVED = ("FLOWGROUP_", "PREFECT_API_")
_RESERVED_NAMES = ("DASK_WORKER_NAME", "DASK_SCHEDULER_ADDRESS", "PREFECT_HOME")
ENV_NAMES: dict[str, Any] = {
    "pattern": rf"^(?!{'|'.join(_RESERVED)}|({'|'.join(_RESERVED_NAMES)})$)[A-Za-z_][A-Za-z0-9_]*$",
}
"""The same as `check_names`, for a JSON schema's `propertyNames`."""


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError for what is no name of an environment variable, or is one of ours."""
    for name in names:
        if not re.match(ENV_NAME, name):
            raise ValueError(f"{name!r} is not a name of an environment variable")
        if name.startswith(_RESERVED) or name in _RESERVED_NAMES:
            raise ValueError(f"{name!r} is set by flowgroup itself: leave it out")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class ObjectRef(_Part):
    name: str = Field(pattern=_OBJECT)


class KeyRef(ObjectRef):
    key: str = Field(pattern=_KEY)


class EnvFrom(_Part):
    """All keys of one Secret or ConfigMap as variables."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    secret_ref: ObjectRef | None = None
    config_map_ref: ObjectRef | None = None
    prefix: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", max_length=64)

    @model_validator(mode="after")
    def _one(self) -> Self:
        _exactly_one(self, "secret_ref", "config_map_ref")
        if self.prefix:
            check_names([f"{self.prefix}X"])
        return self


class ValueFrom(_Part):
    """One key of a Secret or ConfigMap as a variable's value."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    secret_key_ref: KeyRef | None = None
    config_map_key_ref: KeyRef | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _exactly_one(self, "secret_key_ref", "config_map_key_ref")
        return self


class Item(_Part):
    key: str = Field(pattern=_KEY)
    path: str = Field(pattern=r"^[^/.][^\x00]*$", max_length=1024)


class ClaimVolume(_Part):
    claim_name: str = Field(pattern=_OBJECT)
    read_only: bool = False


class ConfigMapVolume(_Part):
    name: str = Field(pattern=_OBJECT)
    items: tuple[Item, ...] = ()


class SecretVolume(_Part):
    secret_name: str = Field(pattern=_OBJECT)
    items: tuple[Item, ...] = ()


class EmptyDirVolume(_Part):
    size_limit: str | None = Field(default=None, pattern=_QUANTITY)
    medium: str = Field(default="", pattern="^(Memory)?$")


class Volume(_Part):
    """One volume, of one of four kinds. Nothing of a node can be named, and no token is made."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 2})

    name: str = Field(pattern=_LABEL)
    persistent_volume_claim: ClaimVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    empty_dir: EmptyDirVolume | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _exactly_one(self, "persistent_volume_claim", "config_map", "secret", "empty_dir")
        return self


class VolumeMount(_Part):
    name: str = Field(pattern=_LABEL)
    mount_path: str = Field(pattern=r"^/[^:\x00]*$", max_length=1024)
    sub_path: str = Field(default="", pattern=r"^([^/.][^\x00]*)?$", max_length=1024)
    read_only: bool = False

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        path = PurePosixPath(self.mount_path)
        if ".." in path.parts or ".." in PurePosixPath(self.sub_path).parts:
            raise ValueError(f"{self.mount_path!r}: no '..' in a path")
        if str(path) in _NOT_ITSELF or any(path.is_relative_to(ours) for ours in _OURS):
            raise ValueError(f"nothing can be mounted at {self.mount_path!r}: choose another mountPath")
        return self


class PodExtras(BaseModel):
    """All of it. Driver, scheduler and workers get the same, so that a task finds what its flow finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env_from: tuple[EnvFrom, ...] = ()
    env_value_from: dict[str, ValueFrom] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    service_account: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_names(self.env_value_from)
        _each_once("volumes", [volume.name for volume in self.volumes])
        _each_once("volume_mounts", [str(PurePosixPath(mount.mount_path)) for mount in self.volume_mounts])
        known, mounted = {volume.name for volume in self.volumes}, {mount.name for mount in self.volume_mounts}
        if lacking := sorted(mounted - known):
            raise ValueError(f"volume_mounts: there is no volume {lacking[0]!r} in volumes")
        if lost := sorted(known - mounted):
            raise ValueError(f"volumes: {lost[0]!r} is mounted nowhere: add it to volume_mounts")
        for kind, name in self.objects():
            if kind == "Secret" and _A_CLUSTERS.search(name):
                raise ValueError(f"the Secret {name!r} has a name of a cluster's own Secret, which are nobody else's")
        return self

    def objects(self) -> list[tuple[str, str]]:
        """Kind and name of every object that is referred to."""
        named: list[tuple[str, Any]] = [("Secret", one.secret_ref) for one in self.env_from]
        named += [("ConfigMap", one.config_map_ref) for one in self.env_from]
        named += [("Secret", one.secret_key_ref) for one in self.env_value_from.values()]
        named += [("ConfigMap", one.config_map_key_ref) for one in self.env_value_from.values()]
        named += [("ConfigMap", one.config_map) for one in self.volumes]
        found = {(kind, str(one.name)) for kind, one in named if one is not None}
        found |= {("Secret", one.secret.secret_name) for one in self.volumes if one.secret}
        found |= {
            ("PersistentVolumeClaim", one.persistent_volume_claim.claim_name)
            for one in self.volumes
            if one.persistent_volume_claim
        }
        return sorted(found)

    def told(self) -> dict[str, Any]:
        """Only what was said, as Kubernetes spells it: what an author signs."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _exactly_one(part: BaseModel, *names: str) -> None:
    said = [name for name in names if getattr(part, name) is not None]
    if len(said) != 1:
        among = ", ".join(to_camel(name) for name in names)
        raise ValueError(f"exactly one of {among} is to be said")


def _each_once(where: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: {name!r} is there twice")
