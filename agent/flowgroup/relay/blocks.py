"""
Blocks on their way to a run: which it may see, and which secrets are in them.

Judged by what the API answers, so that a filter shows no more than a name does. A block that opens Prefect's API itself is
seen by no run: by its type, by the names of its fields, or by a value that is such a key.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from flowgroup.relay.tokens import Kind, Named

# Prefect's own types begin with its name, which its server lets nobody else take.
_KEY_TYPE = re.compile(r"prefect\b.*(credential|key|token|auth)")
_KEY_FIELDS = frozenset(
    {"prefect_api_key", "prefect_cloud_api_key", "prefect_api_auth_string", "prefect_client_custom_headers"}
)
_KEY = re.compile(r"pn[ub]_[A-Za-z0-9]{16,}")
_HIDDEN_VALUE = "*"
_NO_KEYS = "runs may not read blocks that hold keys to Prefect's API"


class NotBlocks(ValueError):
    """The answer is not one with blocks in it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the run may see (`body`, JSON), how many blocks were left out, and the secrets that it learns."""

    body: bytes
    left_out: int
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """
    `keys` are the relay's own, now. `hidden` are `type/name` patterns that no run sees; `covers`, where there is one, says
    which blocks runs may see at all.
    """

    keys: Callable[[], tuple[str, ...]]
    hidden: tuple[str, ...] = ()
    covers: Callable[[Named], bool] | None = None

    def look(self, raw: bytes) -> Seen | str:
        """What of an answer a run may see, or why not. Raises NotBlocks when it cannot be looked through."""
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise NotBlocks("the API's answer is not JSON") from exc
        documents = answer if isinstance(answer, list) else [answer]
        if not all(isinstance(one, dict) for one in documents):
            raise NotBlocks("the API's answer is not of the form that blocks have")
        reasons = [self._why_not(one) for one in documents]
        if not isinstance(answer, list):
            return reasons[0] or Seen(raw, 0, tuple(_secrets(answer)))
        kept = [one for one, reason in zip(documents, reasons, strict=True) if reason is None]
        body = json.dumps(kept).encode() if len(kept) < len(documents) else raw
        return Seen(body, len(documents) - len(kept), tuple(secret for one in kept for secret in _secrets(one)))

    def _why_not(self, document: dict[str, Any]) -> str | None:
        name = f"{_slug(document)}/{document.get('name')}"
        if any(fnmatchcase(name, pattern) for pattern in self.hidden):
            return f"the block {name} is one that FLOWGROUP_RELAY_HIDDEN_BLOCKS names"
        if self.covers is not None and not self.covers(Named(Kind.BLOCK, name)):
            return f"the block {name} is not one that FLOWGROUP_RELAY_BLOCKS names"
        opens = any(_KEY_TYPE.search(slug) for slug in _slugs(document)) or self._has_key(document)
        return f"the block {name} holds a key to Prefect's API: {_NO_KEYS}" if opens else None

    def _has_key(self, document: dict[str, Any]) -> bool:
        fields = _object(_object(_object(document.get("block_schema")).get("fields")).get("properties"))
        if any(_is_key_field(name) for name in fields):
            return True
        keys = self.keys()
        return any(
            _is_key_field(name) or _KEY.search(text) or any(key in text for key in keys)
            for name, text in _texts(document.get("data"))
        )


def _is_key_field(name: str) -> bool:
    return name.lower().replace("-", "_") in _KEY_FIELDS


def _slug(document: dict[str, Any]) -> str:
    return str(_object(document.get("block_type")).get("slug", ""))


def _slugs(document: dict[str, Any]) -> Iterator[str]:
    """Of the block's type, and of those of the blocks within it."""
    yield _slug(document)
    for reference in _object(document.get("block_document_references")).values():
        yield from _slugs(_object(_object(reference).get("block_document")))


def _secrets(document: dict[str, Any]) -> Iterator[str]:
    """The values at the schema's secret fields, such as `value`, `headers.*` or `auth.password`."""
    paths = _object(_object(document.get("block_schema")).get("fields")).get("secret_fields")
    for path in paths if isinstance(paths, list) else ["value"] if _slug(document) == "secret" else []:
        for value in _at(document.get("data"), str(path).split(".")):
            yield from (text for _, text in _texts(value) if text.strip(_HIDDEN_VALUE))


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif isinstance(value, dict):
        names = list(value) if path[0] == "*" else [path[0]]
        for name in names:
            yield from _at(value.get(name), path[1:])
    elif isinstance(value, list):
        for one in value:
            yield from _at(one, path[1:] if path[0] == "*" else path)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in there, with the name that it stands under; names themselves count as well."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for inner_name, inner in value.items():
            yield inner_name, inner_name
            yield from _texts(inner, inner_name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)
    elif value is not None:
        yield name, str(value)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
