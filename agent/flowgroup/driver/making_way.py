"""A run's own module goes before an installed one of the same name, also where the template has imported that one already."""

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, all_suffixes
from pathlib import Path
from types import ModuleType

from flowgroup.driver import installed


class OwnFirst(MetaPathFinder):
    """
    Finds nothing. It looks whether `sys.path` has got new folders, and forgets what a module in them stands before.

    Python asks it whenever it does not know a module yet, and when the bundle's code has been put in its place.
    """

    def __init__(self, preloaded: Iterable[str]) -> None:
        tops = {name.partition(".")[0] for name in preloaded}
        self._tops = frozenset(top for top in tops if top in preloaded)
        self._seen = tuple(sys.path)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        self.invalidate_caches()
        return None

    def invalidate_caches(self) -> None:
        now = tuple(sys.path)
        if now == self._seen:
            return
        new = [entry for entry in installed.ahead(now) if entry not in self._seen]
        self._seen = now
        own = {name for entry in new for name in _modules_in(Path(entry))} & self._tops
        if not own:
            return
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]


def _modules_in(folder: Path) -> set[str]:
    """What could be imported from there. `pkgutil` says it more exactly, and takes ten times as long."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return set()
    suffixes = tuple(all_suffixes())
    return {entry.name.partition(".")[0] for entry in entries if entry.name.endswith(suffixes) or entry.is_dir()}
