"""
Changes to Prefect that save time, as such: each is made only if the installed Prefect looks as it expects.

What does not fit is left out and logged: everything works without it, only slower.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

from flowgroup import log

_log = log.get()
C = TypeVar("C", bound=Callable[..., None])


class Changes(Generic[C]):
    """A list of changes, in the order in which they are made."""

    def __init__(self) -> None:
        self._expected: list[tuple[C, tuple[str, ...]]] = []
        self._fitting: tuple[C, ...] | None = None

    def expects(self, *shapes: str) -> Callable[[C], C]:
        """Register a change. `shapes` are what it stands on: `module:name.name(parameter, parameter)` or `module:name`."""

        def register(change: C) -> C:
            self._expected.append((change, shapes))
            return change

        return register

    def all(self) -> tuple[C, ...]:
        return tuple(change for change, _ in self._expected)

    def fitting(self) -> tuple[C, ...]:
        """Those that fit the installed Prefect, which is looked at once."""
        if self._fitting is None:
            self._fitting = tuple(change for change, shapes in self._expected if _fits(change, shapes))
        return self._fitting


def _fits(change: Callable[..., None], shapes: tuple[str, ...]) -> bool:
    try:
        for shape in shapes:
            _check(shape)
    except (AttributeError, TypeError, ImportError) as exc:
        _log.warning("prefect_left_as_it_is", change=change.__name__, reason=str(exc), effect="runs are slower")
        return False
    return True


def _check(shape: str) -> None:
    path, _, expected = shape.partition("(")
    module, _, names = path.partition(":")
    found: Any = import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    if expected:
        parameters = ", ".join(inspect.signature(found).parameters)
        if parameters != expected.rstrip(")"):
            raise TypeError(f"{path} takes ({parameters}), not ({expected}")
