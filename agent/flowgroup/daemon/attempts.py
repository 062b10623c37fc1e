"""
Which attempts are open at the relay, and the tokens of their children.

In: an attempt that is about to be sent, or has ended. Out: a token, and the relay's level. The level is on disk (only
hashes of the tokens), so that a new daemon keeps the children of the former one connected.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from flowgroup import log
from flowgroup.edge.files import read_text, write_atomically
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import AttemptId, ClusterName, Token
from flowgroup.model.runs import ClaimedRun, Opened

_EXTEND_EVERY_S = 5.0


class Relay(Protocol):
    async def level(self, attempts: Sequence[OpenAttempt]) -> None: ...
    async def close(self, attempt: AttemptId) -> None: ...


class Attempts:
    """
    The relay is always told the whole level, never that one more is open: a relay that was just started again would
    take a single one for all there are, and refuse the others' children.
    """

    def __init__(self, relay: Relay, file: Path) -> None:
        self._relay = relay
        self._file = file
        self._open = {one.attempt: one for one in _read(file)}
        self._told: int = -1
        self._version = 0
        self._saved = 0
        self._lock = asyncio.Lock()

    async def open(self, run: ClaimedRun, cluster: ClusterName, results: str | None) -> Opened:
        """Open the run's attempt, with a new token. Raises Transient when the relay does not take it."""
        token = Token(secrets.token_urlsafe(32))
        hashed = hashlib.sha256(token.encode()).hexdigest()
        self._change({**self._open, run.attempt: OpenAttempt(run.attempt, run.id, hashed, results, cluster)})
        await self._tell()
        return Opened(run.attempt, token)

    async def close(self, attempt: AttemptId) -> None:
        """Close the attempt: from now on its child cannot say anything. If the relay is away, its next level says so."""
        try:
            self._change({name: one for name, one in self._open.items() if name != attempt})
            await asyncio.sleep(0)  # runs that end together share a write
            self._save()
            await self._relay.close(attempt)
        except FlowgroupError as exc:
            log.get().warning("relay_close_put_off", attempt=attempt, reason=str(exc))

    def listed(self) -> list[OpenAttempt]:
        return list(self._open.values())

    async def extend(self) -> None:
        """Tell the relay the level every few seconds, for ever: it may have been started again, and attempts expire there."""
        is_away = False
        while True:
            try:
                self._told = -1
                await self._tell()
                is_away = False
            except FlowgroupError as exc:
                if not is_away:
                    log.get().warning("relay_away", reason=str(exc))
                is_away = True
            await asyncio.sleep(_EXTEND_EVERY_S)

    async def _tell(self) -> None:
        wanted = self._version
        async with self._lock:  # one at a time, so that an older level never arrives last; who waited finds it told
            if self._told >= wanted:
                return
            telling = self._version
            self._save()
            await self._relay.level(tuple(self._open.values()))
            self._told = telling

    def _change(self, attempts: dict[AttemptId, OpenAttempt]) -> None:
        self._open = attempts
        self._version += 1

    def _save(self) -> None:
        if self._saved != self._version:
            saving = self._version
            write_atomically(self._file, json.dumps([asdict(one) for one in self._open.values()]))
            self._saved = saving


def _read(file: Path) -> list[OpenAttempt]:
    """What a former daemon left. A file that cannot be read is said, and is as none."""
    try:
        return [OpenAttempt(**item) for item in json.loads(read_text(file) or "[]")]
    except (ValueError, TypeError) as exc:
        log.get().error("attempts_file_unreadable", file=str(file), reason=str(exc))
        return []
