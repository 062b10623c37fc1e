"""
What is changed in Prefect on a worker to make small tasks cheap, each with its reason.

A change is made only if the installed Prefect looks as it expects (`changes.py`).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from threading import Lock
from types import SimpleNamespace
from typing import Any

from prefect import serializers, task_engine
from prefect.blocks import core as blocks
from prefect.client import orchestration
from prefect.context import SyncClientContext

from flowgroup.driver.changes import Changes

_CLIENTS = 32


CHANGES: Changes[Callable[[], None]] = Changes()


def apply() -> None:
    """All of them, once, when the worker starts."""
    for change in CHANGES.fitting():
        change()


@CHANGES.expects("prefect.client.orchestration:ssl.create_default_context")
def keep_ssl_contexts() -> None:
    """Prefect reads the certificates of the machine for each client: 20 ms, though the address here is plain HTTP."""
    stock = orchestration.ssl  # type: ignore[attr-defined]
    cached = lru_cache(maxsize=8)(stock.create_default_context)
    named = {name: getattr(stock, name) for name in ("SSLContext", "CERT_NONE")}
    orchestration.ssl = SimpleNamespace(create_default_context=cached, **named)  # type: ignore[attr-defined,assignment]


@CHANGES.expects("prefect.serializers:from_qualified_name(name)")
def keep_encoders() -> None:
    """Prefect looks for its own JSON encoder as a module first, in all of `sys.path`, each time it makes a cache key."""
    stock = serializers.from_qualified_name  # type: ignore[attr-defined]
    own = lru_cache(maxsize=32)(stock)
    serializers.from_qualified_name = lambda name: (  # type: ignore[attr-defined]
        own(name) if name.startswith("prefect.") else stock(name)
    )


@CHANGES.expects("prefect.blocks.core:slugify")
def keep_slugs() -> None:
    """Prefect makes the slug of a block's type anew for each block: with a transliteration of Unicode."""
    blocks.slugify = lru_cache(maxsize=256)(blocks.slugify)  # type: ignore[attr-defined,assignment]


_TRANSACTION = "(key, store, commit_mode, isolation_level, overwrite, write_on_commit, logger)"
TRANSACTIONS = tuple(f"prefect.task_engine:{name}{_TRANSACTION}" for name in ("transaction", "atransaction"))


@CHANGES.expects(*TRANSACTIONS)
def read_what_may_be_kept() -> None:
    """
    Prefect looks for a kept result of each task, though the task keeps none: a call of the object store, which lasts as
    long as the task. A task that keeps none could only find what it kept earlier in this run with other settings.
    """
    for name in ("transaction", "atransaction"):
        setattr(task_engine, name, _unread(getattr(task_engine, name)))


def _unread(stock: Any) -> Any:
    @wraps(stock)
    def transaction(*, overwrite: bool, write_on_commit: bool, **others: Any) -> Any:
        return stock(overwrite=overwrite or not write_on_commit, write_on_commit=write_on_commit, **others)

    return transaction


_clients: OrderedDict[str, SyncClientContext] = OrderedDict()
_lock = Lock()
_keeps_clients = False


@CHANGES.expects("prefect.context:SyncClientContext.get_or_create")
def keep_clients() -> None:
    """Prefect makes two clients for each task. Here all tasks of one run use one."""
    global _keeps_clients
    _keeps_clients = True


@contextmanager
def client_of(owner: str) -> Iterator[None]:
    """For the block: the owner's client is the one that Prefect finds. Under the settings of the owner."""
    if not _keeps_clients:
        yield
        return
    token = SyncClientContext.__var__.set(_client(owner))
    try:
        yield
    finally:
        SyncClientContext.__var__.reset(token)


def _client(owner: str) -> SyncClientContext:
    with _lock:
        if owner not in _clients or getattr(
            _clients[owner].client, "_closed", False
        ):  # a task may end it: `with get_client(…) as client`
            context = SyncClientContext()
            context.client.__enter__()
            _clients[owner] = context
        _clients.move_to_end(owner)
        if len(_clients) > _CLIENTS:
            _clients.popitem(last=False)  # not closed: a task that runs may have it; its connections end by themselves
        return _clients[owner]
