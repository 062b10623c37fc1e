"""Pack a flow: what travels, the pickle, the content's id, the zip."""

import hashlib
import io
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle
import prefect
from prefect import Flow, Task

from flowgroup.bundles import archive
from flowgroup.bundles.content import Content
from flowgroup.bundles.names import Names, file_of, named
from flowgroup.bundles.sources import Home, beside, home_of, included
from flowgroup.errors import Refused
from flowgroup.model.bundle import MAX_BUNDLE_BYTES, canonical_json
from flowgroup.model.ids import digest

_ID_HEX = 32


@dataclass(frozen=True, slots=True)
class Packed:
    """
    A packed flow. `content_id` is the same wherever and whenever the same content is packed; `sha256` is this zip's.

    `entry` is `<file>:<function>`, for people; `files` are the paths of the code in it.
    """

    data: bytes = field(repr=False)
    sha256: str
    content_id: str
    entry: str
    files: tuple[str, ...]
    python: str
    cloudpickle: str
    prefect: str

    @property
    def size(self) -> int:
        return len(self.data)


def pack(
    flow: Flow[..., Any],
    *,
    include: Sequence[str] = (),
    image: str | None = None,
    start_script: str | None = None,
    env: Mapping[str, str | None] | None = None,
) -> Packed:
    """
    Pack a flow with the modules beside it and the files that the patterns in `include` name.

    Raises Refused: not a flow, nothing matches a pattern, something cannot be pickled, too large.
    """
    if not isinstance(flow, Flow):
        raise Refused(f"{flow!r} is not a Prefect flow: put @flow above the function, or name the flow itself")
    home = home_of(flow.fn)
    names = Names(home.root)
    content = Content(names)
    walked = content.of(flow)
    code = _read({**beside(home, sorted(content.imports)), **included(home, include)})
    data = archive.write(_pickled(flow, names, home), code)
    if len(data) > MAX_BUNDLE_BYTES:
        largest = max(code, key=lambda path: len(code[path]), default=archive.FLOW)
        raise Refused(
            f"the bundle of flow {flow.name!r} has {len(data)} bytes, more than {MAX_BUNDLE_BYTES} (largest: "
            f"{largest}): keep data in a store and read it in the flow"
        )
    about = {
        "flow": walked,
        "entry": home.entry,
        "files": {path: hashlib.sha256(body).hexdigest() for path, body in code.items()},
        "parameters": _without_defaults(flow.parameters.model_dump(mode="json")),
        "python": _python(),
        "cloudpickle": cloudpickle.__version__,
        "prefect": prefect.__version__,
        "image": image,
        "start_script": start_script,
        "env": dict(env or {}),
    }
    return Packed(
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        content_id=digest(canonical_json(about))[:_ID_HEX],
        entry=home.entry,
        files=tuple(sorted(code)),
        python=_python(),
        cloudpickle=cloudpickle.__version__,
        prefect=prefect.__version__,
    )


def _without_defaults(schema: Any) -> Any:
    """Defaults count with the code; in the schema a set's order would change from process to process."""
    if isinstance(schema, dict):
        return {name: _without_defaults(value) for name, value in schema.items() if name != "default"}
    return [_without_defaults(item) for item in schema] if isinstance(schema, list) else schema


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _read(files: Mapping[str, Path]) -> dict[str, bytes]:
    if len(files) >= archive.MAX_FILES:
        raise Refused(f"{len(files)} files lie beside the flow or match include, more than {archive.MAX_FILES}")
    try:
        return {path: file.read_bytes() for path, file in files.items()}
    except OSError as exc:
        raise Refused(f"cannot read {exc.filename}, which belongs to the flow: {exc.strerror}") from exc


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle, but what can be found again by its name is: so the flow that runs is the one of its module."""

    def __init__(self, file: io.BytesIO, names: Names) -> None:
        super().__init__(file)
        self._names = names

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Flow | Task | FunctionType):
            by_name = self._names.of(obj)
            if by_name is not None and not (isinstance(obj, FunctionType) and by_name[0] is named):
                return by_name  # an ordinary function cloudpickle itself takes by name
        return super().reducer_override(obj)


def _pickled(flow: Flow[..., Any], names: Names, home: Home) -> bytes:
    out = io.BytesIO()
    try:
        with _by_value([module for module in _modules(home) if names.is_odd(module)]):
            _Pickler(out, names).dump(flow)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as exc:
        raise Refused(
            f"flow {flow.name!r} cannot be packed: {exc}. Something that its functions use from outside cannot be "
            "pickled: make it inside the function, or move it into a module beside the flow's file"
        ) from exc
    return out.getvalue()


def _modules(home: Home) -> Iterator[ModuleType]:
    if home.root is None:
        return
    for module in list(sys.modules.values()):
        file = file_of(module) if isinstance(module, ModuleType) else None
        if file is not None and file.is_relative_to(home.root):
            yield module


@contextmanager
def _by_value(modules: Sequence[ModuleType]) -> Iterator[None]:
    """While in here, what these modules define is pickled by value."""
    loaded = [module for module in modules if sys.modules.get(module.__name__) is module]
    for module in loaded:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in loaded:
            cloudpickle.unregister_pickle_by_value(module)
