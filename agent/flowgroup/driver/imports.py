"""
A run's own modules on shared workers: `import helper` inside of a task finds the helper of the run that the task belongs to.

Functions travel by value and bring along what they refer to; but a statement `import helper` that runs on the worker looks
in `sys.modules`, which all runs share. So the worker asks by run: names that the run's code folder holds are taken from the
run's own modules, which the child sends once; everything else is imported as usual.
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


def pack() -> bytes:
    """In the child: every module that is registered by value, as one pickle. One that cannot be pickled is left out."""
    from sys import modules

    found = {name: modules[name] for name in cloudpickle.list_registry_pickle_by_value() if name in modules}
    try:
        return bytes(cloudpickle.dumps(found))
    except Exception:  # a module holds a lock, a socket or the like: whatever its `__reduce__` raises
        return bytes(cloudpickle.dumps({name: module for name, module in found.items() if _can_travel(module)}))


def _can_travel(module: ModuleType) -> bool:
    try:
        cloudpickle.dumps(module)
    except Exception:  # as above
        return False
    return True


@dataclass
class Code:
    """One run's modules on this worker, fetched from its child when a task first imports one of them."""

    names: frozenset[str]
    fetch: Callable[[], bytes]
    _modules: dict[str, ModuleType] | None = None
    _lock: RLock = field(default_factory=RLock)

    def has(self, name: str) -> bool:
        return name.partition(".")[0] in self.names

    def load(self, name: str, fromlist: Sequence[str]) -> ModuleType:
        """What the import statement binds. Raises ModuleNotFoundError."""
        with self._lock:
            if self._modules is None:
                self._modules = _linked(cloudpickle.loads(self.fetch()))
        module = self._modules.get(name)
        if module is None:
            raise ModuleNotFoundError(
                f"No module named {name!r} among those that the run sent to this worker", name=name
            )
        return module if fromlist else self._modules[name.partition(".")[0]]


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
    usual = builtins.__import__

    def importing(
        name: str,
        globals: "dict[str, Any] | None" = None,  # noqa: A002  the names that import statements use
        locals: "dict[str, Any] | None" = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        code = CODE.get()
        if code is None:
            return usual(name, globals, locals, fromlist, level)
        whole = importlib.util.resolve_name("." * level + name, (globals or {}).get("__package__")) if level else name
        return code.load(whole, fromlist) if code.has(whole) else usual(name, globals, locals, fromlist, level)

    builtins.__import__ = importing  # type: ignore[assignment]


def _linked(modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
    """Submodules are attributes of their packages: `from package import module` and `package.module` look there."""
    for name in sorted(modules):
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules.setdefault(parent, ModuleType(parent)), child, modules[name])
    return modules
