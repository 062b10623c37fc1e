"""
`python -m flowgroup.dev.steady`: Prefect's own server over SQLite, made to stand still more seldom, for tests and measurements.

As it comes it stands still for up to a minute at times: garbage is collected while a writer waits for its lock. Here none is
collected, so its memory grows. Under load it answers 503 besides, for a transaction that reads first and writes later cannot be
carried on when another has written in between. With `--lock-first` every transaction asks for the lock when it begins; that
is not for a server with automations, whose evaluation opens one transaction within another and would wait for itself. On
PostgreSQL, as in production, none of this is needed.
"""

import gc
import sys
from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration
from uvicorn.main import main

from flowgroup.dev.server import LOCK_FIRST

_SERVES = ("--factory", "prefect.server.api.server:create_app", "--timeout-graceful-shutdown", "1")
_begin_transaction = AioSqliteConfiguration.begin_transaction


def _locking(self: Any, session: Any, with_for_update: bool = False) -> Any:
    return _begin_transaction(self, session, with_for_update=True)


if __name__ == "__main__":
    gc.disable()
    if LOCK_FIRST in sys.argv:
        AioSqliteConfiguration.begin_transaction = _locking  # type: ignore[method-assign]
    main([*_SERVES, *(argument for argument in sys.argv[1:] if argument != LOCK_FIRST)])
