"""
A run's own modules, in the child: which they are, and how the workers get them.

Own is what lies in the run's code folder, where a pull step put the code, or beside the flow's file, unless it belongs to
an installed package.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from flowgroup import bundles
from flowgroup.driver import installed


@dataclass
class Own:
    """`places` are the folders; `names` the top-level modules in them, loaded or not."""

    places: frozenset[Path]
    _names: frozenset[str] = field(default=frozenset(), init=False)
    _new: installed.Newcomers = field(default_factory=installed.since_fork, init=False)

    def __post_init__(self) -> None:
        found = {name for place in self.places for name in _below(place)}
        self._names = frozenset(name for name in found if bundles.is_own(name, self.places))
        self.register()

    def names(self) -> frozenset[str]:
        """The top-level names that an import statement may mean by one of the run's own modules; never our package's."""
        loaded = {name.partition(".")[0] for name in cloudpickle.list_registry_pickle_by_value()}
        return (self._names | loaded) - {"flowgroup"}  # `flowgroup check` runs a flow of ours

    def register(self) -> None:
        """From now on whatever of these modules is loaded goes to workers by value. Cheap when nothing new was imported."""
        modules = [module for name in self._new.take() if (module := sys.modules.get(name)) is not None]
        for place in self.places:
            bundles.register_by_value(place, modules)

    def pack(self, name: str) -> bytes | None:
        """
        Every own module that is loaded, `name` among them, as one pickle; None if there is no module `name`.

        A module that cannot be pickled is left out. Raises whatever the module raises when it is imported.
        """
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
                raise
            return None
        self.register()
        found = {own: sys.modules[own] for own in cloudpickle.list_registry_pickle_by_value() if own in sys.modules}
        return _dumped(found) or _dumped({own: module for own, module in found.items() if _dumped(module)})


def of_flow(flow: Any, folder: Path) -> Own:
    """What is the run's own once its flow is loaded."""
    file = Path(inspect.unwrap(flow.fn).__code__.co_filename)
    beside = {_above_packages(file.absolute().parent)} if file.is_file() else set()
    return Own(frozenset({folder.absolute(), Path.cwd()} | beside))


def _above_packages(folder: Path) -> Path:
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _below(place: Path) -> Iterator[str]:
    """Names of what could be modules in a place, and in the folders below it that are searched for modules."""
    searched = {Path(entry).absolute() for entry in sys.path}
    folders = [place, *(folder for folder in searched if folder.is_relative_to(place) and folder != place)]
    yield from (module.name for module in pkgutil.iter_modules([str(folder) for folder in folders]))
    for folder in folders:  # a package may go without an __init__.py
        yield from (entry.name for entry in _entries(folder) if entry.name.isidentifier() and entry.is_dir())


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _dumped(thing: Any) -> bytes | None:
    try:
        return bytes(cloudpickle.dumps(thing))
    except Exception:  # noqa: BLE001  it holds a lock, a socket or the like: whatever its `__reduce__` raises
        return None
