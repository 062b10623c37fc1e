"""What is said about a bundle: the statement that an author signs, and how a deployment refers to it."""

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_BUNDLE_BYTES = 512 * 1024 * 1024


class Statement(BaseModel):
    """
    What the author says about one bundle. Signed as its canonical JSON.

    `deployment` is `<flow name>/<deployment name>`; `version` is the content's id, which equals the deployment's
    version; `python` is `<major>.<minor>`; `environment` is the part of `env` that `to_be_signed` says; `pod` is what
    the cluster's pods get by reference (`PodExtras.told`), and is left out where there is nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=1, le=MAX_BUNDLE_BYTES)
    deployment: str
    version: str
    python: str = Field(pattern=r"^3\.\d+$")
    cloudpickle: str
    prefect: str
    image: str | None = None
    start_script: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    pod: dict[str, Any] = Field(default_factory=dict)
    created: datetime

    def canonical(self) -> str:
        """The one JSON text of this statement: sorted keys, no spaces, ASCII only. This is what is signed."""
        return canonical_json(self.model_dump(mode="json", exclude=None if self.pod else {"pod"}))


class BundleRef(BaseModel):
    """How a deployment names its bundle (the job variable `bundle`). The statement stays text, as it was signed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(pattern=r"^(file|s3|gs|az)://", description="where the bundle lies: file, s3, gs or az")
    statement: str = Field(max_length=65536, description="the signed statement, canonical JSON")
    signature: str | None = Field(default=None, description="Ed25519 over the statement, base64")
    key_id: str | None = Field(default=None, description="which public key verifies it")


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
