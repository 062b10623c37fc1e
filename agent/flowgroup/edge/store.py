"""
Object storage: `file://`, `s3://`, `gs://` and `az://` addresses.

Credentials and endpoints come from the environment as object_store reads it (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
AWS_ALLOW_HTTP, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …). The functions that end in `_now` block;
they are for callers that may not start an event loop, such as a notebook that runs one already.
"""

import asyncio
import functools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.metrics import STORE_REQUESTS, STORE_SECONDS
from flowgroup.model.bundle import MAX_BUNDLE_BYTES
from flowgroup.model.causes import marked

_Remote = S3Store | GCSStore | AzureStore
_SCHEMES = ("file", "s3", "gs", "az")
# What a wrong setting looks like in object_store's text; all else that is generic is the network or the server.
_SETTING = ("must be specified", "Missing", "Unable to", "not allowed", "builder error", "Invalid", "invalid")


def join(base: str, *parts: str) -> str:
    """An address below `base`: `join("s3://b/x/", "flows", "a.zip") == "s3://b/x/flows/a.zip"`."""
    return "/".join([base if base.endswith("://") else base.rstrip("/"), *(part.strip("/") for part in parts)])


def checked(address: str) -> str:
    """`address` as it is kept: its scheme known, a `file://` path absolute and `~` replaced. Raises Refused."""
    scheme, separator, rest = address.partition("://")
    if not separator or scheme not in _SCHEMES or not rest:
        raise Refused(f"{address!r} is not a store; give file:///path, s3://bucket, gs://bucket or az://container")
    if scheme != "file":
        return address.rstrip("/")
    path = Path(unquote(rest)).expanduser()
    if not path.is_absolute():
        raise Refused(f"{address!r} does not name an absolute path; write file:///absolute/path (or file://~/path)")
    return local_address(path)


def local_address(path: Path) -> str:
    """The `file://` address of an absolute path."""
    return f"file://{quote(str(path))}"


def local_path(address: str) -> Path | None:
    """The path that a `file://` address names; None for the other schemes."""
    return Path(unquote(address.removeprefix("file://"))).expanduser() if address.startswith("file://") else None


def put_now(address: str, data: bytes) -> None:
    """Write an object, whole or not at all. Raises Refused, Transient, Permanent."""
    path = local_path(address)
    with _counted("put"), _told("write", address):
        if path is not None:
            _write(path, data)
        else:
            store, key = _split(address)
            obstore.put(store, key, data)


def head_now(address: str) -> int | None:
    """An object's size in bytes; None when there is none."""
    path = local_path(address)
    try:
        with _counted("head"), _told("read", address):
            if path is not None:
                return path.stat().st_size
            store, key = _split(address)
            return int(obstore.head(store, key)["size"])
    except _Missing:
        return None


def get_now(address: str, *, limit_bytes: int = MAX_BUNDLE_BYTES) -> bytes:
    """An object. Raises Refused when it is missing or larger than `limit_bytes`."""
    path = local_path(address)
    with _counted("get"), _told("read", address):
        if path is not None:
            _bounded(path.stat().st_size, limit_bytes, address)
            return path.read_bytes()
        store, key = _split(address)
        found = obstore.get(store, key)
        _bounded(int(found.meta["size"]), limit_bytes, address)
        return bytes(found.bytes())


def delete_now(address: str) -> None:
    """Remove an object; one that is not there is gone already."""
    path = local_path(address)
    with suppress(_Missing), _told("remove", address):
        if path is not None:
            path.unlink(missing_ok=True)
            return
        store, key = _split(address)
        obstore.delete(store, key)


def presign_now(address: str, method: Literal["GET", "PUT"], expires_s: float) -> str:
    """An address that whoever holds it may use for `expires_s` seconds; for `file://` the local path."""
    path = local_path(address)
    if path is not None:
        return str(path)
    with _counted("presign"), _told("sign the address of", address):
        store, key = _split(address)
        return obstore.sign(store, method, key, timedelta(seconds=expires_s))


async def put(address: str, data: bytes) -> None:
    """`put_now` without blocking the event loop."""
    await asyncio.to_thread(put_now, address, data)


async def head(address: str) -> int | None:
    """`head_now` without blocking the event loop."""
    return await asyncio.to_thread(head_now, address)


async def get(address: str, *, limit_bytes: int = MAX_BUNDLE_BYTES) -> bytes:
    """`get_now` without blocking the event loop."""
    return await asyncio.to_thread(get_now, address, limit_bytes=limit_bytes)


async def presign(address: str, method: Literal["GET", "PUT"], expires_s: float) -> str:
    """`presign_now` without blocking the event loop (temporary credentials may have to be fetched)."""
    return await asyncio.to_thread(presign_now, address, method, expires_s)


class _Missing(Refused):
    pass


@contextmanager
def _counted(operation: str) -> Iterator[None]:
    """Whether it went well, and how long it took. That there is no such object is an answer."""
    outcome = "failed"
    try:
        with STORE_SECONDS.labels(operation).time():
            yield
        outcome = "ok"
    except _Missing:
        outcome = "ok"
        raise
    except Refused:
        outcome = "refused"
        raise
    finally:
        STORE_REQUESTS.labels(operation, outcome).inc()


@contextmanager
def _told(doing: str, address: str) -> Iterator[None]:
    """Raise our errors from the store's, naming the address and the remedy."""
    try:
        yield
    except FileNotFoundError as exc:
        raise _Missing(
            f"cannot {doing} {address}: there is no such object or bucket; deploy the flow again or correct the store"
        ) from exc
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
        raise Refused(
            f"cannot {doing} {address}: access denied ({_brief(exc)}); check the store's credentials and rights"
        ) from exc
    except (UnknownConfigurationKeyError, InvalidPathError, NotSupportedError) as exc:
        raise Refused(f"cannot {doing} {address}: {_brief(exc)}; check the store's address and settings") from exc
    except GenericError as exc:
        raise _generic(doing, address, exc) from exc
    except (BaseError, OSError) as exc:
        raise Permanent(f"cannot {doing} {address}: {_brief(exc)}") from exc


def _generic(doing: str, address: str, exc: GenericError) -> Permanent | Transient:
    text = _brief(exc)
    if any(sign in text for sign in _SETTING):
        return Refused(
            f"cannot {doing} {address}: {text}; check the store's settings (AWS_…, GOOGLE_… or AZURE_… variables)"
        )
    return Transient(marked("storage-away", f"cannot {doing} {address}: {text}; is the store's endpoint up and right?"))


def _brief(exc: BaseException) -> str:
    """The first line: object_store adds a dump of its structures."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(": ")[:500]


def _split(address: str) -> tuple[_Remote, str]:
    scheme, _, rest = checked(address).partition("://")
    bucket, _, key = rest.partition("/")
    return _store(f"{scheme}://{bucket}"), key


@functools.lru_cache(maxsize=32)
def _store(base: str) -> _Remote:
    """One client for a bucket, so that its connections and temporary credentials are used again."""
    # Without client_options: given any, object_store no longer reads AWS_ALLOW_HTTP and the like. Its own are 5 s to
    # connect and 30 s a request.
    found = from_url(base, retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)})
    assert isinstance(found, S3Store | GCSStore | AzureStore)
    return found


def forget() -> None:
    """Forget every client, so that the environment is read again."""
    _store.cache_clear()


def _bounded(size: int, limit_bytes: int, address: str) -> None:
    if size > limit_bytes:
        raise Refused(f"{address} has {size} bytes, more than the {limit_bytes} that are allowed: make it smaller")


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; who may read it is the folder's and the umask's to say, as for any file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
