"""What the desk knows of modules that its runs import: what a template should import, what it must not. Pure."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowgroup.model.spec import is_process_wide

MAX_NAMES_BYTES = 128 * 1024  # of one template: it gets them all in one packet
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MAX_NAME = 200
_TOO_OFTEN = 3

Key = frozenset[tuple[str, str]]


def key_of(env: Mapping[str, str]) -> Key:
    """
    What of a run's environment its modules may read when they are imported: runs share a template if it is the same.

    What only a new process can take is the same for all runs of a cluster, or makes its run a new process.
    """
    return frozenset((name, value) for name, value in env.items() if not is_process_wide(name))


def names_in(note: Any) -> tuple[str, ...]:
    """The names in a child's note; user code may write notes too, so what is not a plain dotted name is passed over."""
    if not isinstance(note, list):
        return ()
    return tuple(name for name in note if isinstance(name, str) and len(name) <= _MAX_NAME and _NAME.fullmatch(name))


@dataclass
class LeftOut:
    """Modules that no template of this driver imports any more, each with all that is below it."""

    _names: set[str] = field(default_factory=set)
    _of_package: Counter[str] = field(default_factory=Counter)

    def add(self, name: str) -> str:
        """What is left out from now on: the module, or its whole package when it is not the first in it."""
        package = name.partition(".")[0]
        self._of_package[package] += 1
        left_out = package if self._of_package[package] >= _TOO_OFTEN else name
        self._names.add(left_out)
        return left_out

    def has(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:count]) in self._names for count in range(1, len(parts) + 1))


@dataclass
class Wish:
    """
    What the runs of one environment have imported, in the order in which they did.

    `tried` is what a template of this environment was last asked to import.
    """

    names: dict[str, None] = field(default_factory=dict)
    tried: frozenset[str] = frozenset()
    _bytes: int = 0

    def learn(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.names and self._bytes + len(name) < MAX_NAMES_BYTES:
                self.names[name] = None
                self._bytes += len(name)

    def ask(self, left_out: LeftOut) -> tuple[str, ...]:
        """What a template should import now."""
        return tuple(name for name in self.names if not left_out.has(name))

    def is_worth_a_template(self, left_out: LeftOut) -> bool:
        """Whether there is anything new but modules of Python's own library, which cost little."""
        return any(
            name not in self.tried and name.partition(".")[0] not in sys.stdlib_module_names
            for name in self.ask(left_out)
        )
