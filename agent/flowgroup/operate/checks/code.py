"""What runs flows and where their code is: versions, the store, the keys."""

import asyncio
import platform
import uuid
from importlib import metadata
from pathlib import Path

from flowgroup import signing
from flowgroup.edge import store
from flowgroup.operate.checks.base import Check, Seen, Unknown, Wrong
from flowgroup.settings import author

_PYTHON = ((3, 11), (3, 14))
_WANTED = {"prefect": (3, 8), "distributed": (2026, 8), "cloudpickle": (3,), "prefect-dask": (0, 3)}


async def _python(_: Seen) -> str:
    now = tuple(int(part) for part in platform.python_version_tuple()[:2])
    if not _PYTHON[0] <= now < _PYTHON[1]:
        raise Wrong(f"this is Python {platform.python_version()}")
    return platform.python_version()


async def _packages(seen: Seen) -> str:
    """By their metadata: nothing is imported."""
    if seen.where.is_on_kubernetes:
        raise Unknown("runs' images have their own; the driver compares them before its first run")
    found = {name: _version(name) for name in _WANTED}
    wrong = [f"{name} {version or 'is not installed'}" for name, version in found.items() if not _fits(name, version)]
    if wrong:
        raise Wrong(f"{', '.join(wrong)}; wanted: {', '.join(f'{name} {_text(name)}' for name in _WANTED)}")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _fits(name: str, version: str) -> bool:
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    wanted = _WANTED[name]
    return numbers[: len(wanted)] == wanted if name == "prefect" else numbers[: len(wanted)] >= wanted


def _text(name: str) -> str:
    return ".".join(map(str, _WANTED[name]))


def _probe(seen: Seen) -> str:
    if "probe" not in seen.known:
        seen.known["probe"] = store.join(author("STORE") or "file://~/.flowgroup/store", f"doctor/{uuid.uuid4().hex}")
    return str(seen.known["probe"])


async def _write(seen: Seen) -> str:
    if seen.where.is_on_kubernetes and not author("STORE"):
        raise Unknown("FLOWGROUP_STORE is not set here: the daemon reads the store, authors write to it")
    address = store.checked(_probe(seen))
    await store.put(address, b"flowgroup doctor")
    return address.rsplit("/", 2)[0]


async def _read(seen: Seen) -> str:
    address = store.checked(_probe(seen))
    try:
        if await store.get(address, limit_bytes=1024) != b"flowgroup doctor":
            raise Wrong(f"{address} is not what was written there a moment ago")
    finally:
        await asyncio.to_thread(store.delete_now, address)
    return "what was written is read"


async def _public(seen: Seen) -> str:
    folder = seen.where.settings.daemon.public_keys
    if folder is None:
        raise Unknown("FLOWGROUP_PUBLIC_KEYS is not set: unsigned code runs, too")
    keys = signing.load_public(folder)
    seen.known["keys"] = {signing.key_id(key) for key in keys}
    return f"{len(keys)} trusted: {', '.join(sorted(seen.known['keys']))}"


async def _signing(seen: Seen) -> str:
    file = author("SIGNING_KEY")
    if not file:
        raise Unknown("FLOWGROUP_SIGNING_KEY is not set here")
    mine = signing.key_id(signing.public_of(Path(file)))
    trusted = seen.known.get("keys")
    if trusted is not None and mine not in trusted:
        raise Wrong(f"the key {mine} signs here, and the daemon trusts {', '.join(sorted(trusted))}")
    return f"key {mine}"


CHECKS = [
    Check("python", _python, "use Python 3.11, 3.12 or 3.13"),
    Check("packages", _packages, "pip install 'flowgroup[runtime]' in the daemon's environment"),
    Check("store-write", _write, "correct FLOWGROUP_STORE and its credentials (AWS_…, GOOGLE_… or AZURE_…)"),
    Check("store-read", _read, "give the credentials the right to read objects", "store-write"),
    Check("public-keys", _public, "put .pub files into FLOWGROUP_PUBLIC_KEYS (flowgroup keys new makes a pair)"),
    Check("signing-key", _signing, "add the key's .pub to FLOWGROUP_PUBLIC_KEYS, or sign with a trusted one"),
]
