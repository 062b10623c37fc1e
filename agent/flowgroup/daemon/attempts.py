"""
Which attempts are open at the relay, and the tokens of their children.

In: an attempt that is about to be sent, or has ended. Out: a token, and the relay's level. The level is on disk (only
hashes of the tokens), so that a new daemon keeps the children of the former one connected. Where the disk was lost, drivers
have it too, sealed: until they have shown it the relay is told nothing, for it would take that for all there is.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from flowgroup import log
from flowgroup.daemon.seals import Seals
from flowgroup.edge.files import read_text, write_atomically
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import AttemptId, ClusterName
from flowgroup.model.proofs import new_token
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

    def __init__(
        self, relay: Relay, file: Path, seals: Seals | None = None, *, daemon: str = "", key: str = ""
    ) -> None:
        """
        Without `seals` there is nothing to get back, and nothing is waited for. `daemon` is what the relay knows us by, and
        `key` the control key: our tokens show both, so that a relay which has not heard of us yet does not refuse them.
        """
        self._relay = relay
        self._file = file
        self._seals = seals
        self._known_by = (daemon, key)
        read = _read(file)
        self._is_whole = asyncio.Event()
        if read is not None or seals is None:
            self._is_whole.set()
        self._open = {one.attempt: one for one in read or ()}
        self._told: int = -1
        self._version = 0
        self._saved = 0
        self._lock = asyncio.Lock()

    async def open(self, run: ClaimedRun, cluster: ClusterName, results: str | None) -> Opened:
        """Open the run's attempt, with a new token. Raises Transient when the relay does not take it."""
        token = new_token(*self._known_by)
        hashed = hashlib.sha256(token.encode()).hexdigest()
        opened = OpenAttempt(run.attempt, run.id, hashed, results, cluster)
        self._change({**self._open, run.attempt: opened})
        await self._tell()
        return Opened(run.attempt, token, self._seals.seal(opened) if self._seals else "")

    async def close(self, attempt: AttemptId) -> None:
        """Close the attempt: from now on its child cannot say anything. If the relay is away, its next level says so."""
        try:
            self._change({name: one for name, one in self._open.items() if name != attempt})
            await asyncio.sleep(0)  # runs that end together share a write
            if self.is_whole:  # else the first level says it
                self._save()
                await self._relay.close(attempt)
        except FlowgroupError as exc:
            log.get().warning("relay_close_put_off", attempt=attempt, reason=str(exc))

    def listed(self) -> list[OpenAttempt]:
        return list(self._open.values())

    # Lost and found

    @property
    def is_whole(self) -> bool:
        """Whether all that is open is known: from the disk, or because `found` was told."""
        return self._is_whole.is_set()

    def unsealed(self, shown: Iterable[tuple[ClusterName, str]]) -> list[OpenAttempt]:
        """What drivers show of ours."""
        assert self._seals is not None
        opened = [(cluster, self._seals.opened(seal, cluster)) for cluster, seal in shown]
        for cluster in {cluster for cluster, one in opened if one is None}:
            log.get().warning("seal_not_ours", cluster=cluster)
        return [one for _, one in opened if one is not None]

    def found(self, attempts: Iterable[OpenAttempt]) -> None:
        """These are open too, and now all is known."""
        self._change({**{one.attempt: one for one in attempts}, **self._open})
        self._is_whole.set()

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
        await self._is_whole.wait()
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


def _read(file: Path) -> list[OpenAttempt] | None:
    """What a former daemon left, None if nothing is there. A file that cannot be read is said, and is as none."""
    text = read_text(file)
    try:
        return None if text is None else [OpenAttempt(**item) for item in json.loads(text)]
    except (ValueError, TypeError) as exc:
        log.get().error("attempts_file_unreadable", file=str(file), reason=str(exc))
        return None
