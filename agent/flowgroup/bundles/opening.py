"""Open a bundle: everything is checked before anything is unpickled."""

import hashlib
import importlib
import pickle
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import prefect
from prefect import Flow

from flowgroup import signing
from flowgroup.bundles import archive
from flowgroup.bundles.names import file_of
from flowgroup.bundles.sources import is_foreign
from flowgroup.errors import Refused
from flowgroup.model.bundle import BundleRef, Statement


def open_bundle(
    data: bytes | Path,
    ref: BundleRef,
    *,
    public_keys: Sequence[str] = (),
    deployment: str,
    version: str | None,
    into: Path,
) -> Flow[..., Any]:
    """
    The flow of a bundle. Its code is put into the folder `into`, which becomes the first of `sys.path`.

    In this order: statement and signature, size, hash, versions, the zip's entries; only then is anything written,
    imported or unpickled. Raises Refused, naming what is wrong and the remedy.
    """
    statement = signing.check(ref, public_keys, deployment=deployment, version=version)
    whole = _whole(data, ref, statement)
    _check_versions(statement)
    pickled = archive.unpack(whole, into, name=ref.address)
    sys.path.insert(0, str(into))
    importlib.invalidate_caches()
    return _unpickled(pickled, deployment)


def register_by_value(folder: Path, modules: Iterable[ModuleType]) -> None:
    """
    From now on pickle by value whatever is defined in those of `modules` that were loaded from below `folder`.

    So they reach Dask workers, which do not have them. Installed packages below it stay out.
    """
    for module in modules:
        file = _place_of(module) if isinstance(module, ModuleType) else None
        if file is None or not file.is_relative_to(folder.absolute()) or is_foreign(file, folder.absolute()):
            continue
        if sys.modules.get(module.__name__) is module and module.__name__ != "__main__":
            cloudpickle.register_pickle_by_value(module)


def _place_of(module: ModuleType) -> Path | None:
    """A module's file; for a package without an `__init__.py` what would be in its folder."""
    folders = getattr(module, "__path__", None)
    return file_of(module) or next((Path(folder).absolute() / "x" for folder in folders or ()), None)


def is_own(name: str, folders: Iterable[Path]) -> bool:
    """Whether importing the top-level module `name` would take it from below one of these folders. Imports nothing."""
    try:
        spec = PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None or name in sys.builtin_module_names:
        return False
    files = (
        [Path(spec.origin)] if spec.origin else [Path(place) / "x" for place in spec.submodule_search_locations or ()]
    )
    return any(
        file.absolute().is_relative_to(folder) and not is_foreign(file.absolute(), folder)
        for file in files
        for folder in folders
    )


def _whole(data: bytes | Path, ref: BundleRef, statement: Statement) -> bytes:
    size = data.stat().st_size if isinstance(data, Path) and data.is_file() else None
    if isinstance(data, Path) and size is None:
        raise Refused(f"the bundle {ref.address} is missing: deploy the flow again")
    if (size if size is not None else len(data)) != statement.size:  # type: ignore[arg-type]
        raise Refused(
            f"the bundle {ref.address} is truncated or another file: it has {size if size is not None else len(data)} "  # type: ignore[arg-type]
            f"bytes, its statement says {statement.size}; deploy the flow again"
        )
    whole = data.read_bytes() if isinstance(data, Path) else data
    found = hashlib.sha256(whole).hexdigest()
    if found != statement.sha256:
        raise Refused(
            f"the bundle {ref.address} was changed after it was deployed: its sha256 is {found[:12]}…, its statement "
            f"says {statement.sha256[:12]}…; deploy the flow again"
        )
    return whole


def _check_versions(statement: Statement) -> None:
    name = f"the bundle of {statement.deployment!r}"
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if statement.python != ours:
        raise Refused(
            f"{name} was packed with Python {statement.python}, the driver runs {ours}: deploy again from Python {ours} "
            f"or use an image with {statement.python}"
        )
    if _minor(statement.prefect) != _minor(prefect.__version__):
        raise Refused(
            f"{name} was packed with Prefect {statement.prefect}, the driver runs {prefect.__version__}: deploy again "
            f"with Prefect {'.'.join(map(str, _minor(prefect.__version__)))} or use an image with {statement.prefect}"
        )
    if _minor(statement.cloudpickle) > _minor(cloudpickle.__version__):
        raise Refused(
            f"{name} was packed with cloudpickle {statement.cloudpickle}, the driver has {cloudpickle.__version__}: "
            f"deploy again with cloudpickle {cloudpickle.__version__} or use an image with {statement.cloudpickle}"
        )


def _minor(version: str) -> tuple[int, int]:
    """`(3, 8)` of "3.8.8"; (0, 0) of something that is not a version."""
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return 0, 0


def _unpickled(pickled: bytes, deployment: str) -> Flow[..., Any]:
    try:
        flow = pickle.loads(pickled)  # noqa: S301  # its hash and signature were checked
    except ModuleNotFoundError as exc:
        raise Refused(
            f"the flow of {deployment!r} needs the module {exc.name!r}, which is neither in its bundle nor installed "
            "here: put it beside the flow's file, name its files with include=, or install it for the drivers"
        ) from exc
    except Exception as exc:  # the modules of the flow run when they are imported: anything may come out
        raise Refused(
            f"the flow of {deployment!r} cannot be loaded: {type(exc).__name__}: {exc}. Its modules are imported in the "
            "driver: does their code need something that is only on the author's machine?"
        ) from exc
    if not isinstance(flow, Flow):
        raise Refused(f"the bundle of {deployment!r} holds a {type(flow).__name__}, not a flow: deploy the flow again")
    return flow
