"""
Which modules are installed, and which of them this process has imported since it was forked.

Installed is what lies in the interpreter's own library and site-packages: not a run's code, not what stands on PYTHONPATH,
not a checkout that is installed in editable form.
"""

import contextlib
import itertools
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType

_NAMES_A_NOTE = 100
_MAX_NAME = 200


class Newcomers:
    """What is imported from now on. Only that is touched: to look through all modules after a fork copies their memory."""

    def __init__(self, after: str | None) -> None:
        """`after`: the module that was the last one then; None, or one that is gone: whatever is there is new."""
        self._last = after

    def take(self) -> list[str]:
        """Names that have come since the last call, in the order in which their imports ended."""
        while True:
            with contextlib.suppress(RuntimeError):  # another thread imports something meanwhile
                new = list(itertools.takewhile(lambda name: name != self._last, reversed(sys.modules)))
                self._last = new[0] if new else self._last
                return new[::-1]


_known: frozenset[str] = frozenset()
_marked: str | None = None
_news = Newcomers(None)


def mark() -> None:
    """In a zygote or template, before it forks: what is imported now is not news of any child."""
    global _known, _marked, _news
    _known, _marked = frozenset(sys.modules), next(reversed(sys.modules))
    _news = Newcomers(_marked)


def since_fork() -> Newcomers:
    """What a child imports: nothing of a run's own is imported before. In a process that was not forked, all modules."""
    return Newcomers(_marked)


def news() -> Iterator[list[str]]:
    """
    In a child: names of installed modules that it imported since the fork or the last call, some at a time.

    They come in the order in which their imports ended: what a module needs is named before it.

    Nothing in a process that was not forked.
    """
    if _marked is None:
        return
    new = [(name, sys.modules.get(name)) for name in _news.take() if name not in _known]
    names = [name for name, module in new if len(name) <= _MAX_NAME and _is_its_own(name, module)]
    for start in range(0, len(names), _NAMES_A_NOTE):
        yield names[start : start + _NAMES_A_NOTE]


def is_installed(spec: ModuleSpec) -> bool:
    """Whether an import by this spec takes a file of the interpreter's library or of site-packages."""
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return bool(places) and all(place.startswith(_roots()) for place in places)


def ahead(path: Sequence[str]) -> list[str]:
    """The folders of a `sys.path` that are searched before site-packages."""
    return list(itertools.takewhile(lambda folder: folder not in _site_folders(), path))


def stamp() -> tuple[int, ...]:
    """Changes whenever a package is installed or removed."""
    return tuple(_changed_ns(folder) for folder in _site_folders())


def _is_its_own(name: str, module: object) -> bool:
    """Whether importing the name again would give this module. Never asks the module: a lazy one would load."""
    if not issubclass(type(module), ModuleType):
        return False
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    return isinstance(spec, ModuleSpec) and spec.name == name and is_installed(spec)


@cache
def _roots() -> tuple[str, ...]:
    library = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    return tuple(f"{folder}{os.sep}" for folder in (*library, *_site_folders()))


@cache
def _site_folders() -> tuple[str, ...]:
    users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    own = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return tuple(dict.fromkeys([*own, *site.getsitepackages(), *users]))


def _changed_ns(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116  the folder is a string everywhere here
    except OSError:
        return 0
