"""What an author's environment says: where bundles are stored, and which key signs them."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class AuthorSettings(BaseSettings):
    """`FLOWGROUP_STORE` and `FLOWGROUP_SIGNING_KEY`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="FLOWGROUP_", env_ignore_empty=True)

    store: str = "file://~/.flowgroup/store"
    signing_key: Path | None = None
