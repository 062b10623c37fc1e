"""What can be found again by its name in another process, and what must travel by value."""

import sys
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from prefect import Flow, Task

# This process's own script: the driver has another one.
_MAINS = ("__main__", "__mp_main__")


def named(module: str, qualname: str) -> Any:
    """The object of that name. Bundles call this when they are opened: its name and place must stay."""
    return reduce(getattr, qualname.split("."), import_module(module))


def named_fn(module: str, qualname: str) -> Any:
    """The function inside the flow or task of that name. Bundles call this too."""
    return named(module, qualname).fn


def suffix_of(module: ModuleType) -> Path | None:
    """The path of a module's file below the folder that it was imported from; None if the two do not fit."""
    file = file_of(module)
    if file is None:
        return None
    parts = module.__name__.split(".")
    stem = file.name.partition(".")[0]
    path = Path(*parts, file.name) if stem == "__init__" else Path(*parts[:-1], file.name)
    fits = stem in ("__init__", parts[-1]) and file.parts[-len(path.parts) :] == path.parts
    return path if fits else None


def file_of(module: ModuleType) -> Path | None:
    """The file that a module was loaded from; None for built-in ones, namespaces and notebooks."""
    name = getattr(module, "__file__", None)
    return Path(name).absolute() if isinstance(name, str) else None


class Names:
    """Decides, for the flow whose code lies under `root`, what is taken by name."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def is_importable(self, module_name: str | None) -> bool:
        """Whether a driver that has the bundle's code and the same packages can import this module."""
        module = sys.modules.get(module_name or "")
        if module is None or module_name in _MAINS:
            return False
        return not self.is_odd(module)

    def is_odd(self, module: ModuleType) -> bool:
        """Whether a module lies beside the flow under a name that its path does not give: loaded by hand."""
        file = file_of(module)
        if self._root is None or file is None or module.__name__ in _MAINS:
            return False
        if not file.is_relative_to(self._root):
            return False
        return suffix_of(module) is None

    def of(self, thing: Any) -> tuple[Any, tuple[str, str]] | None:
        """How to get a flow, task, function or class back by name, as (callable, arguments); None if by value."""
        module_name, qualname = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        if not isinstance(module_name, str) or not isinstance(qualname, str):
            return None
        if not self.is_importable(module_name):
            return None
        try:
            found = reduce(getattr, qualname.split("."), sys.modules[module_name])
        except AttributeError:
            return None  # it is local to a function
        if found is thing:
            return named, (module_name, qualname)
        if isinstance(thing, FunctionType) and isinstance(found, Flow | Task) and found.fn is thing:
            return named_fn, (module_name, qualname)
        return None
