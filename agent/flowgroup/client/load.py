"""Find the flow that `path/to/file.py:flow` names."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from prefect import Flow

from flowgroup.errors import Refused


def load_flow(entrypoint: str) -> Flow[..., Any]:
    """
    Import the file of `path/to/file.py:flow` and return its flow; without `:flow` the only one that it defines.

    The file is imported as a module from its own folder (or from above its packages), as its neighbours would
    import it; what stands under `if __name__ == "__main__"` does not run. Raises Refused.
    """
    path, _, name = entrypoint.rpartition(":") if ".py:" in entrypoint else (entrypoint, "", "")
    file = Path(path).absolute()
    if not file.is_file():
        raise Refused(f"there is no file {path!r}: give path/to/file.py:flow")
    module = _imported(file)
    if name:
        return _named(module, name, path)
    own = [thing for thing in vars(module).values() if isinstance(thing, Flow) and _is_own(thing, module)]
    if len(own) != 1:
        names = ", ".join(flow.fn.__name__ for flow in own) or "none"
        raise Refused(f"{path} does not define exactly one flow (it has: {names}): give {path}:FLOW")
    return own[0]


def _named(module: ModuleType, name: str, path: str) -> Flow[..., Any]:
    flow = module
    for part in name.split("."):
        flow = getattr(flow, part, None)  # type: ignore[assignment]
    if not isinstance(flow, Flow):
        found = ", ".join(key for key, value in vars(module).items() if isinstance(value, Flow)) or "none"
        raise Refused(f"{path} has no flow {name!r}; its flows: {found}")
    return flow


def _is_own(flow: Flow[..., Any], module: ModuleType) -> bool:
    return bool(flow.fn.__module__ == module.__name__)


def _imported(file: Path) -> ModuleType:
    root, name = _place(file)
    sys.path.insert(0, str(root))
    try:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None and Path(found.origin).absolute() == file:
            return importlib.import_module(name)
        return _by_path(file)
    except Exception as exc:  # the author's own code runs here: anything may come out
        raise Refused(
            f"{file} cannot be imported: {type(exc).__name__}: {exc}. Correct it, or install what it needs here"
        ) from exc


def _place(file: Path) -> tuple[Path, str]:
    """The folder above the file's packages, and the file's module name from there."""
    root, parts = file.parent, [] if file.name == "__init__.py" else [file.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    return root, ".".join(parts)


def _by_path(file: Path) -> ModuleType:
    """Its name is taken by another module (`test.py`, `email.py`) or cannot be one: it is packed by value."""
    name = f"_flow_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise Refused(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
