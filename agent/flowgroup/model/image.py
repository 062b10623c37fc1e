"""What an image's name says: `registry.example:5000/team/etl:1@sha256:…`. Pure."""

import re
from dataclasses import dataclass

_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_HOST = r"localhost(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?|[A-Za-z0-9-]+:\d+"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_NAME = re.compile(rf"(?:({_HOST})/)?({_PART}(?:/{_PART})*)(?::(\w[\w.-]{{0,127}}))?(?:@({DIGEST.pattern}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageName:
    """
    `host` is the registry's, with its port; None for a short name, of which the nodes know where it comes from.

    The first part of a name is a host where it has a dot or a port, or is `localhost`.
    """

    host: str | None
    repository: str
    tag: str
    digest: str | None


def parse(name: str) -> ImageName | None:
    """What it says; None where no image can have that name."""
    found = _NAME.fullmatch(name)
    return ImageName(found[1], found[2], found[3] or "latest", found[4]) if found else None
