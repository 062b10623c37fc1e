"""
What a run says, before it leaves the process that said it: storable, no longer than Prefect takes, and without the secrets
that this process has in its environment.

Here and not at the relay, which does not know them: values of Kubernetes Secrets come with the pod, and those of blocks in
`env` with the order. They are known by name, and those that a Secret brought whole (`env_from`) by a guess: a variable whose
name says that it is one.
"""

from collections.abc import Iterable
from typing import Any

from flowgroup.model.texts import LOOKED_AT_CHARS, MOST_CHARS, cut, forms, masked, storable
from flowgroup.settings import secrets_of_environment

MOST_EVENT_BYTES = 4 * 1024 * 1024  # what the relay takes in one call, and some room
_hidden: tuple[str, ...] = ()


def hide(names: Iterable[str] = ()) -> None:
    """From now on the values of these variables, and of those whose names say that they are secrets, are masked."""
    global _hidden
    _hidden = forms(secrets_of_environment(frozenset(names)))


def sayable(text: str) -> str:
    """A line as it may leave."""
    length = len(text)
    text, _ = masked(storable(text[:LOOKED_AT_CHARS]), _hidden)
    return cut(text, MOST_CHARS, length if length > LOOKED_AT_CHARS else 0)


def of_log(record: dict[str, Any]) -> dict[str, Any]:
    """A record as Prefect's `POST /logs/` takes it (`__payload_size__` is dropped)."""
    kept = {name: value for name, value in record.items() if name != "__payload_size__"}
    return {**kept, "message": sayable(str(kept.get("message", "")))}


def of_event(event: dict[str, Any]) -> dict[str, Any]:
    """An event: its payload is masked."""
    return {**event, "payload": _visited(event["payload"])} if event.get("payload") else event


def without_payload(event: dict[str, Any]) -> dict[str, Any]:
    """What is left of an event that is too large to be taken."""
    return {**event, "payload": {"flowgroup": f"the payload was larger than {MOST_EVENT_BYTES} bytes, and was cut off"}}


def _visited(value: Any) -> Any:
    if isinstance(value, str):
        return masked(storable(value), _hidden)[0]
    if isinstance(value, dict):
        return {name: _visited(inner) for name, inner in value.items()}
    return [_visited(inner) for inner in value] if isinstance(value, list) else value
