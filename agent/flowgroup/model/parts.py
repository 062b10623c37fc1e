"""Parts of what others say, by the form that they should have: what has another form is as if it were not there. Pure."""

from typing import Any

Json = dict[str, Any]


def mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Json]:
    """The objects in a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def count(value: object) -> int:
    """A number of things; 0 for what is none."""
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0
