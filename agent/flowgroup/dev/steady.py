"""
`python -m flowgroup.dev.steady`: Prefect's own server, made to bear load over SQLite, for tests and measurements.

As it comes it stands still for up to a minute at times, and answers 503 or resets connections meanwhile: a transaction
that reads first and writes later cannot be carried on when another has written in between, and garbage is collected while
a writer waits for its lock. Here every transaction asks for the lock when it begins, and no garbage is collected, so its
memory grows. On PostgreSQL, as in production, neither is needed.
"""

import gc
import sys
from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration
from uvicorn.main import main

_SERVES = ("--factory", "prefect.server.api.server:create_app", "--timeout-graceful-shutdown", "1")
_begin_transaction = AioSqliteConfiguration.begin_transaction


def _begin_immediately(self: Any, session: Any, with_for_update: bool = False) -> Any:
    return _begin_transaction(self, session, with_for_update=True)


if __name__ == "__main__":
    gc.disable()
    AioSqliteConfiguration.begin_transaction = _begin_immediately  # type: ignore[method-assign]
    main([*_SERVES, *sys.argv[1:]])
