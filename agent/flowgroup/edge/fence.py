"""
Whether this process may still change anything. One that has lost its place to another must not, wherever its coroutines stand.

It is asked as near to a call as can be: when the call begins, and once more when its first byte is about to be written. A
process that was stopped for a minute goes on at any line, and its first line of all may be that one.
"""

import asyncio
from math import inf
from typing import Any

import httpx

from flowgroup.errors import Transient

_FIRST_BYTE = ("send_request_headers.started", "send_connection_init.started")


class NotLeading(Transient):
    """Another daemon may lead by now. Nothing was sent."""


class Fence:
    """Open until a moment of the event loop's clock, which goes on while the process is stopped; at first without end."""

    def __init__(self) -> None:
        self._until = inf

    def open(self, until: float = inf) -> None:
        self._until = until

    def close(self) -> None:
        self._until = -inf

    @property
    def left_s(self) -> float:
        """For how long it will be open; 0 if it is closed."""
        return max(0.0, self._until - asyncio.get_running_loop().time())

    @property
    def is_open(self) -> bool:
        return self.left_s > 0.0

    def check(self) -> None:
        """Raises NotLeading when it is closed."""
        if not self.is_open:
            raise NotLeading("this daemon does not lead any more: another one may do this")

    async def before(self, request: httpx.Request) -> None:
        """For httpx' hook `request`. Its trace is called after the wait for a connection, which may be long."""
        self.check()
        request.extensions["trace"] = self._traced

    async def _traced(self, event: str, _: dict[str, Any]) -> None:
        if event.endswith(_FIRST_BYTE):
            self.check()
