"""
Which files travel with a flow: the modules beside it.

Beside means below the folder that the flow's module was imported from. Two ways find them: what is loaded now, and
what the sources say they import, also inside functions. Installed packages never travel.
"""

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from flowgroup.bundles.names import file_of, suffix_of
from flowgroup.errors import Refused

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_NEVER = frozenset({"__main__", "__mp_main__", "flowgroup"})
_STDLIB = Path(sysconfig.get_path("stdlib"))


@dataclass(frozen=True, slots=True)
class Home:
    """Where a flow comes from. `root` is None when it is part of an installed package; `file` in a notebook."""

    root: Path | None
    file: Path | None
    entry: str


def home_of(fn: Any) -> Home:
    """Where the function of a flow comes from."""
    qualname = fn.__qualname__
    module = sys.modules.get(fn.__module__)
    file = file_of(module) if module is not None else _code_file(fn)
    if file is None or not file.is_file():
        return Home(Path.cwd(), None, f"notebook:{qualname}")
    root = _root_of(module, file)
    if _is_installed(file):
        return Home(None, file, f"{fn.__module__}:{qualname}")
    return Home(root, file, f"{file.relative_to(root).as_posix()}:{qualname}")


def beside(home: Home, imports: Iterable[str]) -> dict[str, Path]:
    """
    The modules beside the flow, as path in the bundle to file.

    `imports` are absolute module names that code without a file imports (cells of a notebook).
    """
    if home.root is None:
        return {}
    found = _loaded(home.root)
    bases = [home.root, *_search_path(home.root)]
    for name in imports:
        found.update(_resolved(bases, name))
    start = dict(found)
    if home.file is not None:
        start[home.file.relative_to(home.root).as_posix()] = home.file
    found.update(_closure(bases, start))
    return {path: file for path, file in found.items() if PurePosixPath(path).parts[0] not in _NEVER}


def included(home: Home, patterns: Sequence[str]) -> dict[str, Path]:
    """The files that the author's patterns name, relative to the flow's folder. Raises Refused."""
    root = home.root or Path.cwd()
    found: dict[str, Path] = {}
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern:
            raise Refused(f"include={pattern!r} must be a pattern of paths below {root}")
        files = [file for match in root.glob(pattern) for file in _files(match)]
        if not files:
            raise Refused(f"include={pattern!r} matches no file below {root}: correct the pattern")
        found.update({file.relative_to(root).as_posix(): file for file in files})
    return found


def _files(match: Path) -> Iterator[Path]:
    candidates = sorted(match.rglob("*")) if match.is_dir() else [match]
    return (file for file in candidates if file.is_file() and "__pycache__" not in file.parts)


def _code_file(fn: Any) -> Path | None:
    name = inspect.unwrap(fn).__code__.co_filename
    return Path(name).absolute() if name and not name.startswith("<") else None


def _root_of(module: ModuleType | None, file: Path) -> Path:
    """The folder from which the module is imported: above its top package, for a script its own folder."""
    if module is None:
        return file.parent
    spec = getattr(module, "__spec__", None)
    parts = (spec.name if module.__name__ == "__main__" and spec is not None else module.__name__).split(".")
    depth = len(parts) if file.name == "__init__.py" else len(parts) - 1
    below = parts[:depth]
    fits = not below or list(file.parent.parts[-depth:]) == below
    return file.parents[depth] if fits else file.parent


def _is_installed(file: Path) -> bool:
    return not _INSTALLED.isdisjoint(file.parts) or file.is_relative_to(_STDLIB)


def is_foreign(file: Path, root: Path) -> bool:
    """Whether a file below the root belongs to an environment and not to the author."""
    if _is_installed(file):
        return True
    folders = [folder for folder in file.parents if folder.is_relative_to(root) and folder != root]
    return any((folder / "pyvenv.cfg").exists() for folder in folders)


def _loaded(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__ in _NEVER:
            continue
        file, suffix = file_of(module), suffix_of(module)
        if file is None or suffix is None or not file.is_file() or file.suffix == ".pyc":
            continue
        base = file.parents[len(suffix.parts) - 1]
        if base.is_relative_to(root) and not is_foreign(file, root):
            found[suffix.as_posix()] = file
            found.update(_packages(base, suffix))
    return found


def _packages(base: Path, suffix: Path) -> dict[str, Path]:
    """The `__init__.py` of every package around a module."""
    inits = [folder / "__init__.py" for folder in suffix.parents if folder != Path()]
    return {init.as_posix(): base / init for init in inits if (base / init).is_file()}


def _search_path(root: Path) -> list[Path]:
    """Where else below the root this process looks for modules, such as `src`."""
    folders = (Path(entry).absolute() for entry in sys.path if entry)
    return [
        folder
        for folder in folders
        if folder != root and folder.is_relative_to(root) and not is_foreign(folder / "x", root)
    ]


def _closure(bases: Sequence[Path], start: dict[str, Path]) -> dict[str, Path]:
    """Everything that these files import, directly and indirectly, as far as it lies below the bases."""
    found: dict[str, Path] = {}
    todo = list(start.items())
    seen: set[Path] = set()
    known: set[str] = set()
    while todo:
        path, file = todo.pop()
        if file in seen or file.suffix != ".py":
            continue
        seen.add(file)
        names = imported_names(file, PurePosixPath(path))
        for name in names - known:
            more = _resolved(bases, name)
            found.update(more)
            todo.extend(more.items())
        known |= names
    return found


def imported_names(file: Path, path: PurePosixPath) -> frozenset[str]:
    """Every module that a source file imports, anywhere in it, as absolute names; `path` is its place."""
    now = file.stat()
    return _imported(file, path, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=4096)
def _imported(file: Path, path: PurePosixPath, _changed: int, _size: int) -> frozenset[str]:
    """A notebook deploys again and again: what has not changed since is not parsed again."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return frozenset()  # Python will say so better when it is imported
    package = list(path.parent.parts)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(_from(node, package))
    return frozenset(names)


def _from(node: ast.ImportFrom, package: list[str]) -> Iterator[str]:
    around = package[: len(package) - node.level + 1] if node.level else []
    base = ".".join([*around, *([node.module] if node.module else [])])
    if base:
        yield base
    for alias in node.names:
        if alias.name != "*":
            yield f"{base}.{alias.name}" if base else alias.name


def _resolved(bases: Sequence[Path], name: str) -> dict[str, Path]:
    """The files that importing `name` would run, from the first base that has it; empty if none has."""
    for base in bases:
        files = _chain(base, name.split("."))
        if files and not is_foreign(files[-1], bases[0]):
            return {file.relative_to(base).as_posix(): file for file in files}
    return {}


def _chain(base: Path, parts: list[str]) -> list[Path]:
    found: list[Path] = []
    folder = base
    for part in parts:
        folder, before = folder / part, folder
        init = folder / "__init__.py"
        if init.is_file():
            found.append(init)
        elif not folder.is_dir():
            return found + _plain(before, part)
        elif plain := _plain(before, part):
            return found + plain
    return found


def _plain(folder: Path, name: str) -> list[Path]:
    candidates = (folder / f"{name}{suffix}" for suffix in (".py", *EXTENSION_SUFFIXES))
    return [file for file in candidates if file.is_file()][:1]
