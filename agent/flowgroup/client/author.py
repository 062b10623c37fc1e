"""What an author's environment says: where bundles are stored, which key signs them, where docker's logins are."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class AuthorSettings(BaseSettings):
    """`FLOWGROUP_STORE` and `FLOWGROUP_SIGNING_KEY`; `DOCKER_CONFIG`, as docker itself reads it."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="FLOWGROUP_", env_ignore_empty=True)

    store: str = "file://~/.flowgroup/store"
    signing_key: Path | None = None
    docker_config: Path = Field(default=Path("~/.docker"), validation_alias="DOCKER_CONFIG")
