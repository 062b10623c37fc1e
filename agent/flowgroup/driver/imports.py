"""
A run's own modules on shared workers: `import helper` inside of a task finds the helper of the run that the task belongs to.

Functions travel by value and bring along what they refer to; but a statement `import helper` that runs on the worker looks
in `sys.modules`, which all runs share. So the worker asks by run: names that the run's code folder holds are taken from the
run's own modules, which the child sends when they are first asked for (`own.py`); everything else is imported as usual.
"""

import builtins
import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import RLock
from types import ModuleType
from typing import Any

import cloudpickle

MODULES_PATH = "/flowgroup/modules"


@dataclass
class Code:
    """
    One run's modules on this worker: `names` are the top-level ones.

    `fetch` gets a module that a task imports for the first time from the run's child, with all that are loaded there; None
    if there is no such module.
    """

    names: frozenset[str]
    fetch: Callable[[str], bytes | None]
    _modules: dict[str, ModuleType] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    def has(self, name: str) -> bool:
        return name.partition(".")[0] in self.names

    def load(self, name: str, fromlist: Sequence[str]) -> ModuleType:
        """What the import statement binds. Raises ModuleNotFoundError."""
        module = self.module(name)
        for item in fromlist:
            if item != "*" and not hasattr(module, item):
                with contextlib.suppress(ModuleNotFoundError):
                    self.module(f"{name}.{item}")
        return module if fromlist else self.module(name.partition(".")[0])

    def module(self, name: str) -> ModuleType:
        """The module of that whole name. Raises ModuleNotFoundError."""
        with self._lock:
            if name not in self._modules:
                fetched = self.fetch(name)
                if fetched is None:
                    raise ModuleNotFoundError(f"No module named {name!r} beside the flow of this run", name=name)
                self._modules = _linked({**cloudpickle.loads(fetched), **self._modules})
            if name not in self._modules:
                raise ImportError(f"the module {name!r} holds something that cannot be sent to a worker", name=name)
            return self._modules[name]


CODE: ContextVar[Code | None] = ContextVar("flowgroup_code", default=None)


@contextlib.contextmanager
def of_run(code: Code) -> Iterator[None]:
    """For the block, in this thread: import the run's own modules."""
    token = CODE.set(code)
    try:
        yield
    finally:
        CODE.reset(token)


def install() -> None:
    """On a worker, once: look at the run's own modules before `sys.modules`."""
    usual, usual_module = builtins.__import__, importlib.import_module

    def importing(
        name: str,
        globals: "dict[str, Any] | None" = None,  # the names that import statements use
        locals: "dict[str, Any] | None" = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        code = CODE.get()
        if code is None:
            return usual(name, globals, locals, fromlist, level)
        whole = importlib.util.resolve_name("." * level + name, (globals or {}).get("__package__")) if level else name
        return code.load(whole, fromlist or ()) if code.has(whole) else usual(name, globals, locals, fromlist, level)

    def import_module(name: str, package: str | None = None) -> ModuleType:
        code = CODE.get()
        whole = importlib.util.resolve_name(name, package) if name.startswith(".") else name
        return code.module(whole) if code is not None and code.has(whole) else usual_module(name, package)

    builtins.__import__ = importing  # type: ignore[assignment]
    importlib.import_module = import_module


def _linked(modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
    """Submodules are attributes of their packages: `from package import module` and `package.module` look there."""
    for name in sorted(modules):
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules.setdefault(parent, ModuleType(parent)), child, modules[name])
    return modules
