"""
All that a run's process has started, whatever sessions and environments it gave them, and how they are ended.

A child adopts the orphans among its descendants (`oskit.adopt_orphans`), so that while it lives all of them are below it. When
it has died they are the desk's. So what the desk is the parent of, in a session that it did not find there when it began, was
left by a child that is dead.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from flowgroup.driver import oskit

_LOOK_S = 0.02
_SWEEP_S = 5.0


def _sessions() -> frozenset[int]:
    return frozenset(session for parent, session in oskit.process_table().values() if parent == os.getpid())


@dataclass(frozen=True, slots=True)
class Family:
    """
    `living` gives the children that live, `is_starting` whether one is just being made: it may be the desk's own child
    already, and its pid not known yet.
    """

    living: Callable[[], set[int]]
    is_starting: Callable[[], bool]
    _ours: frozenset[int] = field(default_factory=lambda: _sessions() | {os.getsid(0)})

    def kill(self, pid: int) -> None:
        """SIGKILL to a child that lives, and to all below it. What it forks meanwhile is `left`."""
        oskit.kill(oskit.descendants(pid, oskit.process_table()) | {pid})

    async def sweep(self) -> set[int]:
        """End what dead children have left. Gives what would not end in some seconds: it waits in the kernel."""
        deadline = asyncio.get_running_loop().time() + _SWEEP_S
        while left := self._left():
            oskit.kill(left)
            if asyncio.get_running_loop().time() > deadline:
                return left
            await asyncio.sleep(_LOOK_S)
        return set()

    def _left(self) -> set[int]:
        table, living = oskit.process_table(), self.living()
        heads = {pid for pid, (parent, session) in table.items() if parent == os.getpid() and session not in self._ours}
        heads -= living
        if self.is_starting():
            heads = {pid for pid in heads if table[pid][1] != pid}
        heads = {pid for pid in heads if not _reaped(pid)}
        return heads.union(*(oskit.descendants(pid, table) for pid in heads)) - living


def _reaped(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
