"""
Who leads: of the daemons that stand by for each other one serves the pool, and the others wait for its place.

Only a leader reads what is due, has drivers on its line and tells relays anything. Its parts are made when it takes the
place and end when it loses it; then it stands by again. It does not end the process, for a Kubernetes whose API is away
for a while would be answered with restarts, which come later each time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.owner import locked
from flowgroup.edge.fence import Fence
from flowgroup.errors import Refused

_LOOK_EVERY_S = 0.5


class Seat(Protocol):
    """The place of the one that leads."""

    @property
    def fence(self) -> Fence:
        """Open while the place is ours for certain. What changes anything asks it."""
        ...

    @property
    def has_one_home(self) -> bool:
        """Whether whoever sits here finds the files that the one before has left."""
        ...

    async def take(self, looked: Callable[[], None]) -> None:
        """
        Wait until the place is ours. `looked` is called whenever it was seen to be another's.

        Raises Refused when it is another's and is not to be waited for.
        """
        ...

    def kept(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Keep it during the block, and give it back. Yields an event that is set when it is lost."""
        ...


class FileSeat:
    """
    The lock of the folder `<home>/<pool>`. The kernel gives it back when its process ends, whichever way, and never
    before: one that is merely stopped keeps its place, so that its fence is always open.
    """

    has_one_home = True

    def __init__(self, folder: Path, *, waits: bool) -> None:
        self.fence = Fence()
        self._folder = folder
        self._waits = waits
        self._lock = ExitStack()

    async def take(self, looked: Callable[[], None]) -> None:
        is_said = False
        while not self._locked():
            looked()
            if not is_said:
                log.get().info("standing_by", folder=str(self._folder))
                is_said = True
            await asyncio.sleep(_LOOK_EVERY_S)

    def _locked(self) -> bool:
        try:
            self._lock.enter_context(locked(self._folder))
        except Refused:
            if self._waits:
                return False
            raise
        return True

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[asyncio.Event]:
        with self._lock:
            yield asyncio.Event()
