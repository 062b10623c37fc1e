"""
A flow's content as one hash, the same in every process.

Pickles of one flow differ from process to process (addresses, hash seeds, line numbers), so the content is walked
instead: what is found by name counts as its name, because its source is hashed apart; what travels by value (a script's
or a notebook's functions, closures) counts with its code and the globals that the code uses.
"""

import copyreg
import dis
import re
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from prefect import Flow, Task

from flowgroup.bundles.names import Names
from flowgroup.model.ids import digest

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
_BUILTIN = (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
# Derived from the file as a whole, from the code, or kept elsewhere.
_DERIVED = frozenset(
    [
        "_entrypoint",
        "_storage",
        "parameters",
        "source_code",
        "task_key",
        "__wrapped__",
        "__module__",
        "__name__",
        "__qualname__",
        "__doc__",
    ]
)
_OF_CLASSES = frozenset(
    [
        "__dict__",
        "__weakref__",
        "__module__",
        "__qualname__",
        "__firstlineno__",
        "__static_attributes__",
        "__signature__",
        "_abc_impl",
        "__abstractmethods__",
        "__annotations_cache__",
        "__annotate_func__",
    ]
)
_FILE_HASH = re.compile(r"[0-9a-f]{32}")


class Content:
    """One walk. `imports` are afterwards the modules that code without a file imports."""

    def __init__(self, names: Names) -> None:
        self.imports: set[str] = set()
        self._names = names
        self._done: dict[int, str] = {}
        self._open: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id is given out twice during the walk

    def of(self, thing: Any) -> str:
        """The hash of one object and everything that it needs."""
        if isinstance(thing, _PLAIN) and type(thing) in _PLAIN:
            return digest(type(thing).__name__, repr(thing))
        key = id(thing)
        if key in self._open:
            return digest("loop", str(self._open[key]))
        if key not in self._done:
            self._alive.append(thing)
            self._open[key] = len(self._open)
            try:
                self._done[key] = digest(*self._parts(thing))
            finally:
                del self._open[key]
        return self._done[key]

    def _parts(self, thing: Any) -> Iterator[str]:
        by_name = self._names.of(thing) if isinstance(thing, FunctionType | type | Flow | Task) else None
        if by_name is not None:
            return iter(("name", by_name[0].__name__, *by_name[1]))
        for kinds, walk in self._walks():
            if isinstance(thing, kinds):
                return walk(thing)
        return self._reduced(thing)

    def _walks(self) -> tuple[tuple[Any, Callable[[Any], Iterator[str]]], ...]:
        return (
            (Flow | Task, self._wrapped),
            (FunctionType, self._function),
            (CodeType, self._code),
            (type, self._class),
            (ModuleType, lambda module: iter(("module", module.__name__))),
            (_BUILTIN, lambda thing: iter(("builtin", thing.__qualname__))),
            (CellType, self._cell),
            (property, lambda thing: self._all("property", thing.fget, thing.fset, thing.fdel)),
            ((staticmethod, classmethod), lambda thing: self._all(type(thing).__name__, thing.__func__)),
            ((set, frozenset), lambda things: iter(("set", *sorted(self.of(item) for item in things)))),
        )

    def _all(self, kind: str, *things: Any) -> Iterator[str]:
        yield kind
        for thing in things:
            yield self.of(thing)

    def _state(self, values: dict[str, Any]) -> Iterator[str]:
        for name in sorted(values, key=str):
            yield str(name)
            yield self.of(values[name])

    def _wrapped(self, thing: Any) -> Iterator[str]:
        kept = {name: value for name, value in vars(thing).items() if name not in _DERIVED}
        if _FILE_HASH.fullmatch(str(kept.get("version"))):
            del kept["version"]  # made by Prefect from the whole file, not said by the author
        yield type(thing).__qualname__
        yield from self._state(kept)

    def _function(self, fn: FunctionType) -> Iterator[str]:
        yield from self._all("function", fn.__code__, fn.__defaults__, fn.__kwdefaults__, fn.__closure__)
        yield from self._state({name: value for name, value in vars(fn).items() if name != "__wrapped__"})
        yield from self._state(fn.__annotations__)
        used = _globals_used(fn.__code__)
        yield from self._state({name: fn.__globals__[name] for name in used if name in fn.__globals__})
        package = fn.__globals__.get("__package__") or ""
        self.imports.update(name for name in _imports(fn.__code__, package) if name)

    def _code(self, code: CodeType) -> Iterator[str]:
        yield from self._all("code", code.co_name, code.co_code, code.co_flags, code.co_exceptiontable)
        yield from self._all("names", code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        yield from self._all("consts", *code.co_consts)
        yield from self._all("arguments", code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount)

    def _class(self, kind: type) -> Iterator[str]:
        yield from self._all("class", kind.__qualname__, *kind.__bases__, type(kind))
        skipped = ("__pydantic_", "__dataclass_params__")
        yield from self._state(
            {
                name: value
                for name, value in vars(kind).items()
                if name not in _OF_CLASSES and (name == "__pydantic_fields__" or not name.startswith(skipped))
            }
        )

    def _cell(self, cell: CellType) -> Iterator[str]:
        try:
            return self._all("cell", cell.cell_contents)
        except ValueError:
            return iter(("cell", "empty"))

    def _reduced(self, thing: Any) -> Iterator[str]:
        """Whatever else: the way that pickle would take it apart; its type alone if pickle could not."""
        kind = type(thing)
        if kind in (tuple, list):
            return self._all(kind.__name__, *thing)
        if kind is dict:
            return self._all("dict", *(part for item in thing.items() for part in item))
        reduce = copyreg.dispatch_table.get(kind)
        try:
            parts = reduce(thing) if reduce is not None else thing.__reduce_ex__(4)
        except (TypeError, AttributeError, ValueError, NotImplementedError):
            return iter(("object", kind.__module__, kind.__qualname__))
        if isinstance(parts, str):
            return iter(("global", kind.__module__, parts))
        return self._taken_apart(parts)

    def _taken_apart(self, parts: tuple[Any, ...]) -> Iterator[str]:
        make, arguments, state, items, pairs = (*parts, None, None, None, None)[:5]
        flat: list[Any] = [part for pair in pairs or () for part in pair]
        yield from self._all("reduced", make, arguments)
        if isinstance(state, dict):
            yield from self._state(state)
        elif isinstance(state, tuple) and all(part is None or isinstance(part, dict) for part in state):
            yield from self._state({key: value for part in state for key, value in (part or {}).items()})
        else:
            yield self.of(state)
        yield from self._all("items", *(items or ()))
        yield from self._all("pairs", *flat)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _globals_used(code: CodeType) -> set[str]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    return {step.argval for inner in _codes(code) for step in dis.get_instructions(inner) if step.opname in loads}


def _imports(code: CodeType, package: str) -> Iterator[str]:
    for inner in _codes(code):
        steps = list(dis.get_instructions(inner))
        for at, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level, names = steps[at - 2].argval, steps[at - 1].argval
                around = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*around, *([step.argval] if step.argval else [])])
                yield base
                yield from (f"{base}.{name}" for name in names or ())
