"""
What a template does before it forks: imports installed modules, one after another, for as long as a fork can take them.

In: an environment and names of modules. Out: `importing`, and `unfit` with the reason if one of them must be left out.
Runs in the template's process, which has one thread; nothing of a run's own code is imported here.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from flowgroup.driver import installed, pools
from flowgroup.driver.making_way import OwnFirst
from flowgroup.driver.zygote import Prepare, Run, Say, threads
from flowgroup.settings import environment_meanwhile, set_environment

_WRITABLE = os.O_WRONLY | os.O_RDWR
_HARMLESS = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For imports before a fork: no library starts threads, whatever the environment says. It is as before afterwards."""
    with environment_meanwhile(pools.ONE_THREAD, pools.NO_THREAD):
        yield


def settled(run: Run) -> Run:
    """What a child of this process does, with what is imported here now: the pools' usual size, other numbers, then `run`."""
    restore = pools.found()
    installed.mark()

    def settle_and_run(order: bytes, leash: int, shipper: int) -> int:
        restore()
        _shuffle()
        return run(order, leash, shipper)

    return settle_and_run


def preparing(run: Run, take_on: Callable[[dict[str, str]], object] = set_environment) -> Prepare:
    """What makes a process a template of children that `run`. `take_on` is given the environment that they share."""

    def prepare(wish: bytes, say: Say) -> Run | None:
        wanted = json.loads(wish)
        zygotes = frozenset(sys.modules)
        take_on(wanted["env"])
        if not _is_warm(wanted["modules"], say):
            return None
        way = OwnFirst(frozenset(sys.modules) - zygotes)

        def make_way_and_run(order: bytes, leash: int, shipper: int) -> int:
            sys.meta_path.insert(0, way)
            return run(order, leash, shipper)

        return settled(make_way_and_run)

    return prepare


def _is_warm(names: list[str], say: Say) -> bool:
    """Import these; False, and said why, if one of them is not fit. The working folder is the template's own."""
    temporary = Path.cwd() / "tmp"
    temporary.mkdir()
    tempfile.tempdir = None
    with one_thread(), environment_meanwhile({"TMPDIR": str(temporary)}, {}):
        unfit = _import_all(names, temporary, say)
    tempfile.tempdir = None  # each child has a temporary folder of its own
    say(unfit or {"importing": ""})  # what happens from now on is no module's fault
    return not unfit


def _import_all(names: list[str], temporary: Path, say: Say) -> dict[str, str] | None:
    before = _descriptors()
    for name in _with_packages(names):
        if name in sys.modules or not _is_installed(name.partition(".")[0]):
            continue
        say({"importing": name})
        if why := _import(name) or _trouble(before, temporary):
            return {"unfit": name, "why": why}
    return None


def _with_packages(names: list[str]) -> dict[str, None]:
    """Each package before what is in it: an import takes it along anyway, and so it is known which of the two is unfit."""
    split = [name.split(".") for name in names]
    return dict.fromkeys(".".join(parts[:count]) for parts in split for count in range(1, len(parts) + 1))


def _import(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except BaseException as exc:  # noqa: BLE001  whatever a package raises, SystemExit too: it is left out
        return f"{type(exc).__name__}: {exc}"[:200]
    return None


@cache
def _is_installed(name: str) -> bool:
    """The name came from a process that runs user code: here only what is installed is imported, whatever it named."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return False
    return spec is not None and installed.is_installed(spec)


def _trouble(before: dict[int, str], temporary: Path) -> str | None:
    """Why a fork cannot take what has just been imported."""
    if (count := threads()) > 1:
        return f"it starts {count - 1} threads"
    for fd, target in _descriptors().items():
        if before.get(fd) != target and not _is_plain(fd, target):
            return f"it opens {target}"
    if any(temporary.iterdir()):  # all children would share them, and the first to end would remove them
        return "it keeps files in the temporary folder"
    return "it initialises CUDA" if _has_cuda() else None


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # the one that the folder was read by
            continue
    return found


def _is_plain(fd: int, target: str) -> bool:
    """A file that is only read: processes can share it."""
    if target in _HARMLESS:
        return True
    if not target.startswith("/") or target.startswith("/dev/"):
        return False
    try:
        flags = Path(f"/proc/self/fdinfo/{fd}").read_text().partition("flags:")[2].split()[0]
    except OSError:
        return True  # closed meanwhile
    return not int(flags, 8) & _WRITABLE


def _has_cuda() -> bool:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return bool(cuda and cuda.is_initialized())


def _shuffle() -> None:
    """Python's own `random` gets a new seed in every fork; numpy's does not, and runs would draw the same numbers."""
    if numbers := sys.modules.get("numpy.random"):
        numbers.seed()
